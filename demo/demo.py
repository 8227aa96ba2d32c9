"""Compile two models on the CPU and report: a pretrained sentence encoder and a Llama-shaped decoder.

Usage: demo.py [--encoder-only | --decoder-only]

For each: every linear layer with its decision and reason, bytes before and after, and the time of the
dense and the compiled model, both sides interleaved. The encoder is pruned from calibration sentences, and
what that changes of the embeddings of other real sentences is measured.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from models import Encoder, llama_shaped, load_encoder
from rich.console import Console
from rich.table import Table
from sentences import docstring_sentences

import sparseflow as sf
from sparseflow.cli.quiet_output import quiet_libraries
from sparseflow.integrations.transformers.argument_names import returned_cache, with_cache
from sparseflow.runtime import ops  # noqa: F401  # registers the operators
from sparseflow.runtime.timing import medians

PROMPT = 128
console = Console(width=150)


def show_times(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """A table of dense and compiled milliseconds, one line a phase."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("phase", "dense ms", "compiled ms", "speed-up"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, (dense, ours) in rows:
        table.add_row(phase, f"{dense * 1e3:.2f}", f"{ours * 1e3:.2f}", f"{dense / ours:.2f}×")
    console.print(table)


def what_it_cost(dense: torch.nn.Module, pruned: torch.nn.Module, batches: Sequence[dict[str, Any]]) -> None:
    """Print how far pruning moved the embeddings of sentences that it wasn't calibrated on."""
    ours, theirs = (sf.evaluation.embed(model, batches) for model in (pruned, dense))
    scores = sf.evaluation.compare_embeddings(ours, theirs)
    console.print(
        f"\nWhat pruning cost, by {scores.texts} other sentences: mean cosine to the dense embedding "
        f"{scores.cosine:.3f}, lowest {scores.cosine_min:.3f}; {scores.overlap:.0%} of the {scores.k} "
        "nearest neighbours stay. Reconstruction and finetuning win more back: see the README.\n"
    )


def encoder_demo() -> None:
    """The pretrained encoder all-MiniLM-L6-v2."""
    console.rule("Pretrained sentence encoder: all-MiniLM-L6-v2")
    encoder = load_encoder()
    sentences = docstring_sentences(512)
    calibration, test = (encoder.batches(part) for part in (sentences[:256], sentences[256:]))
    pruned = copy.deepcopy(encoder.model)
    sf.prune(pruned, "sparsegpt", calibration=calibration, progress=True)
    compiled = sf.compile(pruned, progress=True)
    batch, single = encoder.tokenize(sentences[:32]), encoder.tokenize(sentences[:1])
    with torch.no_grad():
        compiled(**batch), compiled(**single)
        console.print(compiled.report.table())
        what_it_cost(encoder.model, compiled, test)
        rows = [_encoder_times(encoder, compiled, inputs) for inputs in (batch, single)]
    show_times("Sentence encoder, whole model", rows)


def _encoder_times(
    encoder: Encoder, compiled: sf.CompiledModel, inputs: dict[str, torch.Tensor]
) -> tuple[str, list[float]]:
    """What is encoded, and the seconds of the dense and of the compiled model."""
    batch, length = inputs["input_ids"].shape
    seconds = medians([lambda _: encoder.model(**inputs), lambda _: compiled(**inputs)], seconds=4)
    return f"{batch} sentences of {length} tokens", seconds


def decoder_demo() -> None:
    """A Llama-shaped decoder of 4 layers with random weights: speed and memory, not quality."""
    console.rule("Llama-shaped decoder, 4 layers, random weights")
    model = llama_shaped()
    sf.prune(model, progress=True)  # random weights have no quality to lose
    compiled = sf.compile(model, progress=True)
    ids = torch.randint(model.config.vocab_size, (1, PROMPT))
    with torch.no_grad():
        caches = [returned_cache(f(ids, use_cache=True)) for f in (model, compiled)]
        token = ids[:, :1]
        compiled(token, use_cache=True, **with_cache(compiled, caches[1]))
        console.print(compiled.report.table())
        prefill = medians([lambda _: model(ids), lambda _: compiled(ids)], seconds=4)
        decode = medians(
            [lambda _: _decode(model, token, caches[0]), lambda _: _decode(compiled, token, caches[1])],
            seconds=4,
        )
    show_times(
        "Decoder, whole model",
        [(f"prefill: 1×{PROMPT} tokens", prefill), (f"decode: one token after {PROMPT}", decode)],
    )


def _decode(model: torch.nn.Module, token: torch.Tensor, cache: Any) -> None:
    """One decoding step that leaves the cache as it was."""
    model(token, use_cache=True, **with_cache(model, cache))
    if cache.get_seq_length() > PROMPT:
        cache.crop(-1)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--encoder-only", action="store_true")
    which.add_argument("--decoder-only", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    console.print(
        f"{torch.get_num_threads()} threads, {torch.ops.sparseflow.cpu_isa()}, torch {torch.__version__}"
    )
    with quiet_libraries():
        if not options.decoder_only:
            encoder_demo()
        if not options.encoder_only:
            decoder_demo()
    return 0


if __name__ == "__main__":
    sys.exit(main())
