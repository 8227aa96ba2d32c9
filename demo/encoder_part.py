"""The demo's encoder: all-MiniLM-L6-v2 made 2:4 by SparseGPT and least squares, and what that changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from keeping import Say, keep
from models import Encoder, load_encoder
from sentences import docstring_sentences

import sparseflow as sf
from sparseflow.evaluation import EmbeddingScores
from sparseflow.runtime.timing import medians

SENTENCES = 256
"""To calibrate on, and as many others to test on."""
BATCH = 32
KEPT_DENSE = ("encoder.layer.?.output.dense", "pooler.*")
"""The second layers of MLPs, whose four times as many inputs take minutes, and what no embedding uses."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one call of the dense and of the compiled encoder."""

    what: str
    dense: float
    ours: float


@dataclass(frozen=True)
class EncoderResult:
    """What the encoder showed.

    Attributes:
        scores: the compiled encoder's embeddings beside the dense one's.
        paces: of a batch and of one sentence.
        layers: linear layers.
        sparse: those that run sparse on this machine, where that was measured faster.
        held: bytes of the layers' weights.
        dense: bytes of them before.
    """

    scores: EmbeddingScores
    paces: list[Pace]
    layers: int
    sparse: int
    held: int
    dense: int


def encoder_result(folder: Path, say: Say) -> EncoderResult:
    """Prune and compile the encoder, or load what was kept of it, and compare it with the dense one.

    Args:
        folder: of results.
        say: told of every step that takes long.
    """
    encoder = load_encoder()
    sentences = docstring_sentences(2 * SENTENCES)
    calibration, test = (encoder.batches(part) for part in (sentences[::2], sentences[1::2]))
    batch, single = encoder.tokenize(sentences[:BATCH]), encoder.tokenize(sentences[:1])

    def make(part: Path) -> None:
        say(f"pruning the sentence encoder by SparseGPT and least squares, on {SENTENCES} sentences")
        pruned = copy.deepcopy(encoder.model)
        sf.prune(pruned, "sparsegpt", calibration, skip=KEPT_DENSE, reconstruct="layer", progress=False)
        say("compiling the encoder")
        compiled = sf.compile(pruned, progress=False)
        with torch.no_grad():
            compiled(**batch), compiled(**single)
        compiled.save(part)

    path = folder / "encoder"
    keep(path, make)
    compiled = sf.load(path)
    say("comparing the encoder's embeddings and times")
    ours, theirs = (sf.evaluation.embed(model, test) for model in (compiled, encoder.model))
    report = compiled.report
    return EncoderResult(
        sf.evaluation.compare_embeddings(ours, theirs),
        [_pace(encoder, compiled, inputs) for inputs in (batch, single)],
        len(report["layers"]),
        sum(layer["decision"] == "sparse" for layer in report["layers"]),
        report["model"]["bytes"],
        report["model"]["bytes_dense"],
    )


@torch.no_grad()
def _pace(encoder: Encoder, compiled: Any, inputs: dict[str, torch.Tensor]) -> Pace:
    count, length = inputs["input_ids"].shape
    what = f"{count} sentences of {length} tokens" if count > 1 else f"one sentence of {length} tokens"
    dense, ours = medians([lambda _: encoder.model(**inputs), lambda _: compiled(**inputs)], seconds=2)
    return Pace(what, dense, ours)
