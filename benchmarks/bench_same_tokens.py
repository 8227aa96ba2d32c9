"""Greedy tokens beside transformers' own: `python benchmarks/bench_same_tokens.py [--model FOLDER]`.

Without a folder: small random models of six architectures, with random prompts of random lengths, some of
them left-padded. With one: a real model over its 2:4 weights, with questions. Both sides run in float32; what
differs is kept in the row with how far apart the two tokens' logits were, which tells a tie from an error.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _measure
import torch
import transformers as tf
from torch import Tensor

import sparseflow as sf
from sparseflow.integrations.transformers.models import from_folder

VOCABULARY = 96
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
}
WINDOW = 8
"""Tokens that a layer with a sliding window sees, fewer than most prompts have."""

MODELS: dict[str, Callable[[], tf.PreTrainedModel]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(head_dim=8, **SMALL)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(sliding_window=WINDOW, **SMALL)),
    "gemma3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], **SMALL
        )
    ),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(pad_token_id=0, eos_token_id=1, **SMALL)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=128)
    ),
}
"""Models by name: full, sliding and hybrid caches, grouped heads, joined projections, learnt positions."""

LONGEST = 90
"""Tokens of a random prompt at most."""

SUBJECTS = (
    *("the ocean", "prime numbers", "bread", "the Moon", "a library", "chess", "volcanoes", "music"),
    *("bicycles", "the heart", "glass", "winter", "honey", "maps", "Rome", "trees", "clocks", "salt"),
    *("bridges", "dreams"),
)
ASKED = (
    *("Explain {} to a child.", "List three facts about {}.", "Write a short poem about {}."),
    *("What is the history of {}?", "Why does {} matter?", "Summarise {} in one sentence."),
    *("Compare {} with something similar.", "What do people get wrong about {}?"),
    *("Ask me a question about {}.", "Translate to French: I like {}."),
)
"""Every subject asked in every way: 200 prompts."""


def main() -> None:
    """Compare and write ``benchmarks/results/same_tokens_cpu.json`` or one for the real model."""
    options = _options()
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    rows = [_small(name, options) for name in options.architectures] if options.model is None else []
    if options.model is not None:
        rows.append(_real(options.model, options))
    print(*rows, sep="\n")
    name = "same_tokens" if options.model is None else f"same_tokens_{options.model.name}"
    head = _measure.meta(_measure.cpu_name(), seed=options.seed)
    print(_measure.write(f"{name}_cpu", head, rows, options.out))


def _small(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model = MODELS[name]().eval()
    _prune(model)
    count = -(-options.prompts // len(options.architectures))
    return _compare(name, model, _random_prompts(count), options.tokens)


def _real(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = from_folder(folder, torch.float32)
    _prune(model)
    tokenizer = tf.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompts = _questions(tokenizer, options.prompts)
    return _compare(options.name or folder.name, model, prompts, options.tokens)


def _prune(model: torch.nn.Module) -> None:
    """Make every linear layer but the head 2:4, as both sides then have it."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if name != "lm_head" and isinstance(layer, (torch.nn.Linear, tf.pytorch_utils.Conv1D)):
                across = isinstance(layer, tf.pytorch_utils.Conv1D)
                weight = layer.weight.t() if across else layer.weight
                pruned = sf.prune_24(weight.contiguous())
                layer.weight.copy_(pruned.t() if across else pruned)


def _random_prompts(count: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches of 1 to 3 prompts, half of the larger ones left-padded; `count` sequences in all."""
    while count > 0:
        batch, length = min(count, random.randint(1, 3)), random.randint(1, LONGEST)
        ids = torch.randint(3, VOCABULARY, (batch, length))
        mask = torch.ones_like(ids)
        if batch > 1 and length > 1 and random.random() < 0.5:
            mask[0, : random.randint(1, length - 1)] = 0
        yield {"input_ids": ids, "attention_mask": mask}
        count -= batch


def _questions(tokenizer: Any, count: int) -> Iterator[dict[str, Tensor]]:
    asked = [way.format(subject) for way in ASKED for subject in SUBJECTS]
    for question in asked[:count]:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        yield {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}


def _compare(name: str, model: Any, prompts: Iterator[dict[str, Tensor]], new_tokens: int) -> dict[str, Any]:
    """Decode every prompt by both, and count the sequences whose tokens are all the same."""
    compiled = sf.compile(model, policy="sparse", progress=False)
    how: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    equal = total = 0
    differ, lengths, loops = [], [], set()
    start = time.perf_counter()
    for prompt in prompts:
        expected = model.generate(**prompt, **how)
        found = compiled.generate(**prompt, **how)
        loops.add(compiled.report.model["generate"]["loop"])
        length = prompt["input_ids"].shape[1]
        lengths.append(length)
        for i, same in enumerate((expected == found).all(1).tolist()):
            total, equal = total + 1, equal + same
            if not same:
                differ.append(_difference(model, prompt, expected, found, i))
    return {
        "model": name,
        "dtype": "float32",
        "prompts": total,
        "equal": equal,
        "new_tokens": new_tokens,
        "shortest": min(lengths),
        "longest": max(lengths),
        "loops": sorted(loops),
        "programs": compiled.report.model["programs"],
        "seconds": round(time.perf_counter() - start, 1),
        "differ": differ,
    }


def _difference(
    model: Any, prompt: dict[str, Tensor], expected: Tensor, found: Tensor, i: int
) -> dict[str, Any]:
    """Return where a sequence left transformers' and how much likelier the model took its own token to be."""
    at = int((expected[i] != found[i]).nonzero()[0])
    mask = torch.ones_like(expected)
    mask[:, : prompt["input_ids"].shape[1]] = prompt["attention_mask"]
    with torch.no_grad():
        logits = model(
            input_ids=expected[:, :at], attention_mask=mask[:, :at], position_ids=_positions(mask[:, :at])
        ).logits
    two = logits[i, -1]
    return {
        "length": prompt["input_ids"].shape[1],
        "new_token": at - prompt["input_ids"].shape[1],
        "logit_gap": round(float(two[expected[i, at]] - two[found[i, at]]), 7),
    }


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder that transformers reads; by default small models")
    parser.add_argument("--name", default="", help="of the model, in the row")
    parser.add_argument("--architectures", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=1000, help="in all")
    parser.add_argument("--tokens", type=int, default=12, help="to decode after each")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
