"""Perplexity of several texts, and agreement with the dense model by position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.evaluation.audit.intervals import Interval, bootstrap, wilson
from sparseflow.evaluation.language import logits_of
from sparseflow.finetune.logit_divergence import kl
from sparseflow.support.progress import Step


@dataclass(frozen=True)
class TextScore:
    """One text.

    Attributes:
        text: its name.
        tokens: that were scored.
        perplexity: of the model.
        interval: of it, over windows.
        dense: perplexity of the dense model; None without one, as all that follows.
        ratio: perplexity over dense.
        ratio_interval: of it, over windows, each of which both models read.
        kl: mean KL(dense ‖ model) of the next token, nats.
        agreement: share of tokens for which both hold the same one likeliest.
    """

    text: str
    tokens: int
    perplexity: float
    interval: Interval
    dense: float | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    kl: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class PositionScore:
    """Agreement of the next token where so many tokens came before: `first` to `last`."""

    first: int
    last: int
    tokens: int
    agreement: float
    interval: Interval


@dataclass(frozen=True)
class TextScores:
    """All texts, and all positions over them together."""

    texts: tuple[TextScore, ...]
    positions: tuple[PositionScore, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        return asdict(self)


def cut(tokens: Tensor, window: int, most: int) -> Tensor:
    """Return at most `most` windows ``[windows, window]`` of a text, spread over it.

    Raises:
        ArgumentError: the text doesn't fill one.
    """
    count = min(most, len(tokens) // window)
    if not count:
        raise ArgumentError("the audit's text", f"has {len(tokens)} tokens, fewer than a window of {window}")
    starts = [place * (len(tokens) - window) // max(1, count - 1) for place in range(count)]
    return torch.stack([tokens[start : start + window] for start in starts])


@torch.no_grad()
def score_texts(
    model: nn.Module, dense: nn.Module | None, texts: Mapping[str, Tensor], batch: int, seed: int, step: Step
) -> TextScores:
    """Score windows ``[windows, tokens]`` of each text.

    Args:
        model: in evaluation mode.
        dense: to compare with; None: only perplexity is measured.
        texts: by name.
        batch: windows at a time.
        seed: of the resampling.
        step: advances the progress bar.
    """
    scores, same = [], []
    for done, (name, windows) in enumerate(texts.items(), start=1):
        parts = [_score(model, dense, part) for part in torch.split(windows, batch)]
        mine, theirs, divergence, agree = (torch.cat(every) for every in zip(*parts, strict=True))
        scores.append(_text(name, mine, theirs, divergence, agree, dense is not None, seed))
        same.append(agree)
        step(done, len(texts), name)
    return TextScores(tuple(scores), _positions(same) if dense is not None else ())


def _score(model: nn.Module, dense: nn.Module | None, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both losses, KL and equality of each window's tokens, ``[windows, tokens − 1]`` each."""
    logits = logits_of(model, ids, None)[:, :-1].float()
    targets = ids[:, 1:].to(logits.device)
    mine = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu()
    if dense is None:
        nothing = torch.zeros_like(mine)
        return mine, nothing, nothing, nothing.bool()
    other = logits_of(dense, ids, None)[:, :-1].float()
    theirs = F.cross_entropy(other.transpose(1, 2), targets, reduction="none").cpu()
    return mine, theirs, kl(logits, other).cpu(), (logits.argmax(-1) == other.argmax(-1)).cpu()


def _text(
    name: str, mine: Tensor, theirs: Tensor, divergence: Tensor, same: Tensor, compared: bool, seed: int
) -> TextScore:
    own = mine.double().mean(1)
    low, high = bootstrap(own.tolist(), seed)
    score = (name, mine.numel(), math.exp(own.mean()), (math.exp(low), math.exp(high)))
    if not compared:
        return TextScore(*score)
    more = own - theirs.double().mean(1)
    low, high = bootstrap(more.tolist(), seed)
    return TextScore(
        *score,
        math.exp(theirs.double().mean()),
        math.exp(more.mean()),
        (math.exp(low), math.exp(high)),
        float(divergence.double().mean()),
        float(same.double().mean()),
    )


def _positions(same: list[Tensor]) -> tuple[PositionScore, ...]:
    """Return agreement by powers of two of the tokens before."""
    found, first, length = [], 1, max(part.shape[1] for part in same)
    while first <= length:
        last = min(2 * first - 1, length)
        parts = torch.cat([part[:, first - 1 : last].flatten() for part in same])
        hits = int(parts.sum())
        found.append(PositionScore(first, last, len(parts), hits / len(parts), wilson(hits, len(parts))))
        first *= 2
    return tuple(found)
