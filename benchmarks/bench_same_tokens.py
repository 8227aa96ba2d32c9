"""Greedy tokens beside transformers' own: `python benchmarks/bench_same_tokens.py [--model FOLDER]`.

Without a folder: small random models of six architectures, with random prompts of random lengths, some of
them left-padded. With one: a real model over its 2:4 weights, with questions. Both sides run in float32; what
differs is kept in the row with how far apart the two tokens' logits were, which tells a tie from an error.

A real model's row is written after every prompt. A run that is cut, or whose deadline passes, goes on where
it stopped: the same command asks the questions that are left, until `unanswered` is 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import _measure
import _models
import torch
import transformers as tf
from torch import Tensor

import sparseflow as sf

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


@dataclass
class Tally:
    """What was compared so far.

    Attributes:
        prompts: sequences that both sides continued.
        equal: those of them with the same tokens.
        shortest: tokens of the shortest prompt.
        longest: of the longest.
        seconds: that comparing took.
        loops: which decoded them.
        programs: that the compiled model has.
        differ: where the others left transformers' tokens.
    """

    prompts: int = 0
    equal: int = 0
    shortest: int = 0
    longest: int = 0
    seconds: float = 0.0
    loops: list[str] = field(default_factory=list)
    programs: int = 0
    differ: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(row: Mapping[str, Any]) -> Tally:
        """Go on from a row that was written."""
        return Tally(**{name: row[name] for name in Tally.__dataclass_fields__})

    def add(self, length: int, same: list[bool], loop: str) -> None:
        """Count the sequences of a batch of prompts of so many tokens."""
        self.shortest = min(self.shortest, length) if self.prompts else length
        self.longest = max(self.longest, length)
        self.prompts += len(same)
        self.equal += sum(same)
        self.loops = sorted({*self.loops, loop})


def main() -> None:
    """Compare and write ``benchmarks/results/same_tokens_cpu.json`` or one for the real model."""
    options = _options()
    _measure.pin(options.cores)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    if options.model is not None:
        _real(options.model, options)
        return
    rows = [_small(name, options) for name in options.architectures]
    print(*rows, _write("same_tokens", rows, options), sep="\n")


def _write(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> Path:
    head = _measure.meta(_measure.cpu_name(), seed=options.seed)
    return _measure.write(f"{name}_cpu", head, rows, options.out)


def _small(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model = MODELS[name]().eval()
    _prune(model)
    count = -(-options.prompts // len(options.architectures))
    tally = Tally()
    _compare(tally, model, _random_prompts(count), options)
    return _row(name, tally, options, 0)


def _real(path: Path, options: argparse.Namespace) -> None:
    """Ask a real model the questions that an earlier run left, and write the row after each."""
    name = options.name or path.stem
    asked = min(options.prompts, len(SUBJECTS) * len(ASKED))
    file = options.out / f"same_tokens_{name}_cpu.json"
    tally = _earlier(file, name, options)
    if tally.prompts >= asked:
        print(f"{file}: all {asked} prompts are answered")
        return
    model = _models.real(path, torch.float32)
    _prune(model)
    folder, gguf = (path.parent, path.name) if path.suffix == ".gguf" else (path, None)
    given = options.tokenizer or folder
    read = {"gguf_file": gguf} if gguf is not None and options.tokenizer is None else {}
    tokenizer = tf.AutoTokenizer.from_pretrained(given, local_files_only=True, **read)

    def keep() -> None:
        _write(f"same_tokens_{name}", [_row(name, tally, options, asked - tally.prompts)], options)

    _compare(tally, model, itertools.islice(_questions(tokenizer, asked), tally.prompts, None), options, keep)
    print(_row(name, tally, options, asked - tally.prompts), file, sep="\n")


def _earlier(file: Path, name: str, options: argparse.Namespace) -> Tally:
    """Return what an earlier run of the same comparison wrote, or nothing yet."""
    for row in json.loads(file.read_text())["rows"] if file.exists() else []:
        if (row["model"], row["new_tokens"]) == (name, options.tokens) and "unanswered" in row:
            return Tally.of(row)
    return Tally()


def _row(name: str, tally: Tally, options: argparse.Namespace, unanswered: int) -> dict[str, Any]:
    same = {"model": name, "dtype": "float32", "new_tokens": options.tokens, "unanswered": unanswered}
    return {**same, **asdict(tally), "seconds": round(tally.seconds, 1)}


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


def _compare(
    tally: Tally,
    model: Any,
    prompts: Iterator[dict[str, Tensor]],
    options: argparse.Namespace,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Decode prompts by both until the deadline, and count the sequences whose tokens are all the same."""
    compiled = sf.compile(model, policy="sparse", progress=False)
    how: dict[str, Any] = {
        "max_new_tokens": options.tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    before, start = tally.seconds, time.perf_counter()
    for prompt in prompts:
        if time.perf_counter() - start > options.deadline:
            return
        expected = model.generate(**prompt, **how)
        found = compiled.generate(**prompt, **how)
        same = (expected == found).all(1).tolist()
        tally.add(prompt["input_ids"].shape[1], same, compiled.report.model["generate"]["loop"])
        tally.differ += [
            _difference(model, prompt, expected, found, i) for i, equal in enumerate(same) if not equal
        ]
        tally.programs = compiled.report.model["programs"]
        tally.seconds = before + time.perf_counter() - start
        keep()


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
    parser.add_argument("--model", type=Path, help="folder or GGUF file; by default small models")
    parser.add_argument("--tokenizer", type=Path, help="its folder, if it isn't the model's")
    parser.add_argument("--name", default="", help="of the model, in the row")
    parser.add_argument("--architectures", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=1000, help="in all")
    parser.add_argument("--tokens", type=int, default=12, help="to decode after each")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--cores", type=int, nargs="+", default=[], help="to run on; by default all")
    parser.add_argument("--deadline", type=float, default=86400.0, help="seconds of comparing a model")
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
