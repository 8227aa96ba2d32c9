"""Choose the next token of each sequence: greedily, or drawn from what temperature, top-k and top-p leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 1024
"""Scores among which a block of a GPU looks for the largest."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, as far as it decides which operations that takes.

    Attributes:
        draws: whether a token is drawn; otherwise the likeliest is taken.
        top_k: how many of the likeliest are drawn from; 0 for all.
        top_p: whether only the likeliest that together have a probability are drawn from.
        penalizes: whether tokens that a sequence has already become less likely.
        waits: whether sequences may not end before they have a length.
    """

    draws: bool = False
    top_k: int = 0
    top_p: bool = False
    penalizes: bool = False
    waits: bool = False


@dataclass(frozen=True)
class Knobs:
    """The numbers of a `Sampling`, which the program reads from a tensor.

    Attributes:
        temperature: what scores are divided by.
        top_p: the probability that is drawn from.
        penalty: what the score of a repeated token is divided by, or multiplied with if it is negative.
        least: tokens that a sequence has before it may end, those of the prompt included; up to 2²⁴.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    penalty: float = 1.0
    least: int = 0

    def values(self) -> list[float]:
        """Return the numbers in the order in which `choose` reads them."""
        return [self.temperature, self.top_p, self.penalty, float(self.least)]


def choose(
    logits: Tensor, sampling: Sampling, knobs: Tensor, seen: Tensor | None, held: Tensor | None = None
) -> Tensor:
    """Choose a token for each sequence.

    Args:
        logits: `[batch, vocabulary]`.
        sampling: how.
        knobs: `Knobs.values()`, fp32 `[4]`.
        seen: which tokens each sequence has already, bool `[batch, vocabulary]`; if `sampling.penalizes`.
        held: which tokens may not be chosen, bool `[vocabulary]`, as `held_back` gives it; None for all may.

    Returns:
        int64 `[batch]`.
    """
    scores = logits.float()
    if seen is not None:
        scores = torch.where(seen, torch.where(scores < 0, scores * knobs[2], scores / knobs[2]), scores)
    if held is not None:
        scores = scores.masked_fill(held, -torch.inf)
    if not sampling.draws:
        return likeliest(scores)
    probabilities = _kept(scores / knobs[0], sampling, knobs[1]).softmax(-1)
    # What torch.multinomial does for one draw, without waiting for the device as it does.
    return likeliest(probabilities / torch.empty_like(probabilities).exponential_(1))


def held_back(vocabulary: int, eos: Tensor, count: Tensor, knobs: Tensor) -> Tensor:
    """Return which tokens may not come next, because they would end a sequence too early.

    Args:
        vocabulary: tokens that there are; those of `eos` beyond them are passed over.
        eos: the tokens that end a sequence, int64 `[any]`.
        count: tokens so far, int64 `[1]`.
        knobs: `Knobs.values()`, fp32 `[4]`.

    Returns:
        bool `[vocabulary]`.
    """
    ends = (torch.arange(vocabulary, device=eos.device).unsqueeze(1) == eos).any(1)
    return ends & (count < knobs[3])


def likeliest(scores: Tensor) -> Tensor:
    """Return the index of the first largest score of each row, NaN being larger than all; int64 `[batch]`.

    Args:
        scores: `[batch, vocabulary]`, of a floating dtype.
    """
    if scores.device.type != "cuda" or scores.shape[-1] <= GROUP:
        return scores.argmax(-1)
    return likeliest_of_groups(scores)


def likeliest_of_groups(scores: Tensor) -> Tensor:
    """Return what `likeliest` does, first within groups of scores, then among these.

    Inductor spreads other reductions of one row over blocks of a GPU, but no arg-max: the one block that
    looks through 128256 scores takes 27 µs on an H200.
    """
    groups = -(-scores.shape[-1] // GROUP)
    padded = torch.nn.functional.pad(scores, (0, groups * GROUP - scores.shape[-1]), value=-torch.inf)
    best, places = padded.reshape(-1, groups, GROUP).max(-1)
    group = best.argmax(-1, keepdim=True)
    found: Tensor = (group * GROUP + places.gather(1, group)).squeeze(1)
    return found


def _kept(scores: Tensor, sampling: Sampling, top_p: Tensor) -> Tensor:
    """Scores with -inf for the tokens that are not drawn from."""
    size = scores.shape[-1]
    if not 0 < sampling.top_k < size and not sampling.top_p:
        return scores
    count = min(sampling.top_k or size, size)
    best = scores.topk(count).values  # descending
    least = best[:, -1:]
    if sampling.top_p:
        # Tokens are left out from the least likely on, as long as together they have no more than the rest.
        below = best.flip(-1).softmax(-1).cumsum(-1) <= 1 - top_p
        left_out = below.sum(-1, keepdim=True).clamp(max=count - 1)
        least = best.gather(-1, count - 1 - left_out)
    return scores.masked_fill(scores < least, -torch.inf)
