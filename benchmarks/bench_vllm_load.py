"""Loading into vLLM's engine, dense tensors and a packed folder: `python benchmarks/bench_vllm_load.py`.

A Llama-3-8B shape of fewer layers is made up, pruned, saved and packed; then engines load both folders in
turn, each in a process of its own, from files that were just written. `--tiny` runs a small shape on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure
from _vllm_side import ENVIRONMENT, LLAMA_8B, TINY, answers, timed_loading

FOLDERS = ("pruned", "packed")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=8, help="of the 32")
    parser.add_argument("--rounds", type=int, default=2, help="engines of each folder")
    parser.add_argument("--limit", type=int, default=240, help="seconds for each engine")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # what this starts itself with
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    return parser.parse_args(argv)


def write_folders(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Write a made-up model, pruned by magnitude, as dense tensors and packed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import sparseflow as sf
    from sparseflow.checkpoints import convert_checkpoint

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    config = {name: value for name, value in shape.items() if name not in ("architectures", "torch_dtype")}
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**config)).to(dtype)
    sf.prune(model, progress=False)
    model.save_pretrained(folder / "pruned")
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    convert_checkpoint(folder / "pruned", folder / "packed", "sparseflow")


def load(folder: Path, *, tiny: bool) -> dict[str, Any]:
    """Start an engine over a folder; return the seconds of loading, and the memory of weights."""
    from vllm import LLM

    from sparseflow.integrations.vllm import registration

    registration.register()
    seconds: list[float] = []
    with timed_loading(folder.parent / "loading", seconds):
        llm = LLM(
            model=str(folder),
            dtype="float32" if tiny else "bfloat16",
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=64,
            max_num_seqs=4,
            **({} if tiny else {"gpu_memory_utilization": 0.5}),  # the maker of the folders is there too
        )
    found: dict[str, Any] = {"load_s": sum(seconds)}
    if folder.name == "packed":
        found["layers"] = list(llm.llm_engine.vllm_config.quant_config.layers.lines())
    return found


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load a folder in a process of its own."""
    command = [sys.executable, __file__, "--load", str(folder), *(["--tiny"] if args.tiny else [])]
    run = subprocess.run(command, stdout=subprocess.PIPE, timeout=args.limit, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.load:
        answer = answers()
        os.environ.update(ENVIRONMENT)
        answer(load(args.load, tiny=args.tiny))
        return 0
    shape = TINY if args.tiny else {**LLAMA_8B, "num_hidden_layers": args.layers}
    with tempfile.TemporaryDirectory() as work:
        write_folders(Path(work), shape, "cpu" if args.tiny else "cuda")
        size = {name: sum(f.stat().st_size for f in (Path(work) / name).iterdir()) for name in FOLDERS}
        each: dict[str, list[dict[str, Any]]] = {name: [] for name in FOLDERS}
        for _ in range(args.rounds):
            for name in FOLDERS:
                each[name].append(measured(Path(work) / name, args))
    seconds = {name: [found["load_s"] for found in rounds] for name, rounds in each.items()}
    row = {
        "layers": shape["num_hidden_layers"],
        "dense_load_s": statistics.median(seconds["pruned"]),
        "load_s": statistics.median(seconds["packed"]),
        "dense_load_each": seconds["pruned"],
        "load_each": seconds["packed"],
        "dense_bytes": size["pruned"],
        "bytes": size["packed"],
    }
    import torch
    import vllm

    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    name = "vllm_load_tiny" if args.tiny else _measure.gpu_name("vllm_load", device)
    head = _measure.meta(device, vllm=vllm.__version__, runs=each["packed"][-1]["layers"])
    print(json.dumps(row, indent=1), _measure.write(name, head, [row], args.results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
