"""Tiny models in folders, in every form of checkpoint, and vLLM's engine over them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import zoo

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.integrations.transformers import SparseFlowConfig

PROMPTS = [[5, 6, 7, 8, 9], [90, 20, 30], list(range(3, 40))]
NEW = 12
LARGER = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
"""What vLLM's attention on a CPU takes: heads of 32."""


def model(name: str, seed: int = 0) -> torch.nn.Module:
    """A decoder of the zoo, with heads that vLLM's attention takes."""
    model_class, configuration = zoo.TEXT[name]
    config = configuration()
    for key, value in LARGER.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    return model_class(config).eval()


def save_forms(name: str, folder: Path) -> dict[str, Path]:
    """Save a model dense, pruned, and pruned in each packed form; the folders by what they hold."""
    folders = {form: folder / form for form in ("dense", "2:4", "saved", "sparseflow", "sparse-24-bitmask")}
    dense = model(name)
    dense.save_pretrained(folders["dense"])
    sf.prune(dense, progress=False)
    dense.save_pretrained(folders["2:4"])
    for form in ("sparseflow", "sparse-24-bitmask"):
        convert_checkpoint(folders["2:4"], folders[form], form)
    packed = type(dense).from_pretrained(folders["2:4"], quantization_config=SparseFlowConfig())
    packed.save_pretrained(folders["saved"])
    return folders


def save_others(name: str, folder: Path) -> Path:
    """Save a model of other weights than `save_forms`, pruned and packed; returns the dense 2:4 folder."""
    dense = model(name, seed=1)
    sf.prune(dense, progress=False)
    dense.save_pretrained(folder / "2:4")
    convert_checkpoint(folder / "2:4", folder / "sparseflow", "sparseflow")
    return folder / "2:4"


def save_dequantised(name: str, folder: Path, target: Path) -> None:
    """Save the weights that a folder in fp8 stands for, in float32 and pruned."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    dense = model(name)
    dense.load_state_dict(Checkpoint(folder).state_dict())
    sf.prune(dense, progress=False)
    dense.save_pretrained(target)


def save_pattern(name: str, pattern: str, folder: Path) -> None:
    """Save a model pruned to a pattern as it is, in ``pruned``, and packed, in ``packed``."""
    dense = model(name)
    sf.prune(dense, pattern=pattern, progress=False)
    dense.save_pretrained(folder / "pruned")
    assert convert_checkpoint(folder / "pruned", folder / "packed", "sparseflow")


def save_adapter(folder: Path, target: Path) -> None:
    """Save a LoRA adapter of all projections of a Llama, with weights that change what it says."""
    from peft import LoraConfig, get_peft_model

    base = zoo.TEXT["llama"][0].from_pretrained(folder, dtype=torch.float32)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(1)
    adapted = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=names))
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(target)


def expected(name: str, folder: Path, adapter: Path | None = None) -> list[list[int]]:
    """The tokens that transformers gives in float32, with a LoRA adapter if one is given."""
    loaded = zoo.TEXT[name][0].from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, adapter).eval()
    lengths = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    # Without an end, which transformers forbids and vLLM ignores.
    out = [loaded.generate(torch.tensor([p]), do_sample=False, eos_token_id=None, **lengths) for p in PROMPTS]
    return [row[0][len(p) :].tolist() for row, p in zip(out, PROMPTS, strict=True)]


@contextmanager
def engine(folder: Path, **options: Any) -> Iterator[Any]:
    """vLLM's engine over a folder, in this process."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    settings = {
        "dtype": "float32",
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "max_model_len": 64,
        "max_num_seqs": 4,
        **options,
    }
    llm = None
    try:
        llm = LLM(model=str(folder), **settings)
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def tokens(llm: Any, **options: Any) -> list[list[int]]:
    """The tokens that an engine gives for the prompts, with further options of its `generate`."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=NEW, detokenize=False, ignore_eos=True)
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = llm.generate(prompts, params, use_tqdm=False, **options)
    return [list(out.outputs[0].token_ids) for out in found]


def served(llm: Any) -> Any:
    """How the layers of an engine run: its `ServedLayers`."""
    return llm.llm_engine.vllm_config.quant_config.layers
