"""Find orders of input channels that spread important ones over the blocks of a pattern."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sparseflow.runtime.pattern import Pattern


def channel_order(scores: Tensor, pattern: Pattern) -> Tensor:
    """Find an order of columns that keeps more of the scores under a pattern, as in the RIA paper.

    Channels are distributed to the blocks by total score; then, one slot of every block at a time, they are
    reassigned so that the kept scores grow most: a linear sum assignment, by scipy where it is installed.

    Args:
        scores: ``[N, K]``, ≥ 0, K a multiple of the block.
        pattern: how many entries of how many are kept.

    Returns:
        int64 ``[K]``: position p of the new order holds the old channel ``order[p]``; the old order where no
        better one is found.
    """
    old = torch.arange(scores.shape[1], device=scores.device)
    slots = scores.sum(0).argsort(descending=True, stable=True).reshape(pattern.block, -1)
    if assignment_available():
        for slot in range(pattern.block):
            _assign(scores, slots, slot, pattern)
    new = slots.t().flatten()
    return new if _kept(scores[:, new], pattern) > _kept(scores, pattern) else old


def assignment_available() -> bool:
    """Return whether scipy is installed, which solves the assignments."""
    return importlib.util.find_spec("scipy") is not None


def _assign(scores: Tensor, slots: Tensor, slot: int, pattern: Pattern) -> None:
    """Reassign the channels of one slot, ``slots[slot]``, to the blocks, in place."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped,unused-ignore]

    others = [s for s in range(pattern.block) if s != slot]
    last = scores[:, slots[others]].topk(pattern.keep, dim=1).values[:, -1]
    newcomer = scores[:, slots[slot]]
    # Where b is the last that a block keeps of the others, a newcomer x makes it keep max(b, x) instead: the
    # sum over rows is half of Σb + Σx + Σ|b − x|, of which an assignment changes only the last term.
    gain = torch.cdist(last.t().contiguous(), newcomer.t().contiguous(), p=1)
    _, chosen = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    slots[slot] = slots[slot][torch.as_tensor(chosen, device=slots.device)]


def _kept(scores: Tensor, pattern: Pattern) -> float:
    return float((scores * pattern.mask(scores)).sum(dtype=torch.float64))
