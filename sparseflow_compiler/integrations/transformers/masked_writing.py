"""Sentences that an encoder makes for itself: by its masked-language-model head, or from its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase

STEPS = 8
"""Forward passes in which the head fills all places."""
SHORTEST = 4
AT_ONCE = {"cuda": 256, "cpu": 16}


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens of an encoder: all, those that stand for no word, and what frames a sentence."""

    size: int
    special: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    mask: int | None


class SentenceWriter:
    """Makes sentences for one encoder.

    With a masked-language-model head, a sentence begins as masks alone; in each of `STEPS` passes some of
    them, at random places, get tokens drawn from the head's predictions, as Wang and Cho (2019, arXiv
    1902.04094) sample from BERT. Without one, tokens are drawn from the vocabulary alike.

    Args:
        model: in evaluation mode.
        tokenizer: says which tokens are special; None: none is.
        length: the most tokens of a sentence.

    Attributes:
        batch: sentences of a round.
        notes: remarks in full sentences.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, length: int) -> None:
        self._model = model
        self._vocabulary = _vocabulary(model, tokenizer)
        self._length = length
        self._fills = type(model).__name__.endswith("ForMaskedLM") and self._vocabulary.mask is not None
        self.batch = AT_ONCE.get(device_of(model).type, AT_ONCE["cpu"])
        self.notes: list[str] = []
        if not self._fills:
            self.notes.append(
                "The encoder has no masked-language-model head to write by: its sentences are words drawn "
                "from the vocabulary alike. Sentences passed as text would serve better."
            )

    def round(self, seconds: float | None = None) -> list[Tensor]:
        """Return `batch` sentences, token ids ``[S]`` each, drawn by torch's generator."""
        framed = len(self._vocabulary.begin) + len(self._vocabulary.end)
        most = max(SHORTEST, self._length - framed) + 1
        lengths = torch.randint(SHORTEST, most, (self.batch,)).tolist()
        rows = [self._words(length) for length in lengths]
        return self._filled(rows) if self._fills else rows

    def _words(self, length: int) -> Tensor:
        """Return a framed sentence of words drawn alike."""
        v = self._vocabulary
        allowed = torch.ones(v.size)
        allowed[list(v.special)] = 0
        words = torch.multinomial(allowed, length, replacement=True)
        return torch.cat(
            (torch.tensor(v.begin, dtype=torch.int64), words, torch.tensor(v.end, dtype=torch.int64))
        )

    @torch.no_grad()
    def _filled(self, rows: list[Tensor]) -> list[Tensor]:
        """Return sentences of the same lengths whose words the head drew."""
        v, device = self._vocabulary, device_of(self._model)
        assert v.mask is not None
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        words = mask.bool() & ~torch.isin(ids, torch.tensor(v.special))
        ids[words] = v.mask
        turns = torch.randint(STEPS, ids.shape)
        for turn in range(STEPS):
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            logits = self._model(**inputs).logits.float().cpu()
            logits[..., list(v.special)] = -torch.inf
            now = words & (turns == turn)
            if now.any():
                ids[now] = torch.multinomial(logits[now].softmax(-1), 1).flatten()
        return [row[: len(whole)] for row, whole in zip(ids, rows, strict=True)]


def _vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> _Vocabulary:
    config = getattr(model, "config", None)
    size = int(getattr(config, "vocab_size", 0))
    if tokenizer is None:
        return _Vocabulary(size, (), (), (), None)
    empty: list[int] = list(tokenizer("")["input_ids"])
    half = (len(empty) + 1) // 2
    special = tuple(one for one in tokenizer.all_special_ids if one < size)
    mask = tokenizer.mask_token_id
    return _Vocabulary(size, special, tuple(empty[:half]), tuple(empty[half:]), mask)
