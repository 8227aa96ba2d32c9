"""The demo's encoder: all-MiniLM-L6-v2 made 2:4 by SparseGPT and least squares, and what that changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from keeping import Say, keep, keep_json, kept_json
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


class EncoderPart:
    """The encoder and what is made of it, kept in a folder.

    Args:
        folder: of results.
        say: told of every step that takes long.
    """

    PARTS = ("encoder", "encoder.json")

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        self._encoder = load_encoder()
        sentences = docstring_sentences(BATCH)
        self._shown = [self._encoder.tokenize(some) for some in (sentences, sentences[:1])]

    def make(self) -> None:
        """Prune, compile and score the encoder, unless that is kept."""
        sentences = docstring_sentences(2 * SENTENCES)
        keep(self._folder / "encoder", lambda part: self._compile(part, sentences[::2]))
        keep_json(self._folder / "encoder.json", lambda: self._scores(sentences[1::2]))

    def result(self) -> EncoderResult:
        """Compare what was made with the dense encoder."""
        self._say("comparing the encoders' times")
        compiled = sf.load(self._folder / "encoder")
        report = compiled.report
        return EncoderResult(
            EmbeddingScores(**kept_json(self._folder / "encoder.json")),
            [_pace(self._encoder, compiled, inputs) for inputs in self._shown],
            len(report["layers"]),
            sum(layer["decision"] == "sparse" for layer in report["layers"]),
            report["model"]["bytes"],
            report["model"]["bytes_dense"],
        )

    def _compile(self, part: Path, sentences: list[str]) -> None:
        self._say(f"pruning the sentence encoder by SparseGPT and least squares, on {SENTENCES} sentences")
        pruned = copy.deepcopy(self._encoder.model)
        calibration = self._encoder.batches(sentences)
        sf.prune(pruned, "sparsegpt", calibration, skip=KEPT_DENSE, reconstruct="layer", progress=False)
        self._say("compiling the encoder")
        compiled = sf.compile(pruned, progress=False)
        with torch.no_grad():
            for inputs in self._shown:
                compiled(**inputs)
        compiled.save(part)

    def _scores(self, sentences: list[str]) -> dict[str, object]:
        self._say("comparing the encoder's embeddings with the dense ones")
        models = (sf.load(self._folder / "encoder"), self._encoder.model)
        ours, theirs = (sf.evaluation.embed(model, self._encoder.batches(sentences)) for model in models)
        return sf.evaluation.compare_embeddings(ours, theirs).to_dict()


@torch.no_grad()
def _pace(encoder: Encoder, compiled: Any, inputs: dict[str, torch.Tensor]) -> Pace:
    count, length = inputs["input_ids"].shape
    what = f"{count} sentences of {length} tokens" if count > 1 else f"one sentence of {length} tokens"
    dense, ours = medians([lambda _: encoder.model(**inputs), lambda _: compiled(**inputs)], seconds=2)
    return Pace(what, dense, ours)
