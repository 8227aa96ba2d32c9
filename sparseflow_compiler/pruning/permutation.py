"""Find orders of input channels that spread important ones over the 2:4 groups."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sparseflow.runtime import portable


def channel_order(scores: Tensor) -> Tensor:
    """Find an order of columns that keeps more of the scores under 2:4, as in the RIA paper.

    Channels are distributed to the groups by total score; then, one slot of every group at a time, they are
    reassigned so that the kept scores grow most: a linear sum assignment, by scipy where it is installed.

    Args:
        scores: ``[N, K]``, ≥ 0, K a multiple of 4.

    Returns:
        int64 ``[K]``: position p of the new order holds the old channel ``order[p]``; the old order where no
        better one is found.
    """
    k = scores.shape[1]
    old = torch.arange(k, device=scores.device)
    slots = scores.sum(0).argsort(descending=True, stable=True).reshape(4, k // 4)
    if assignment_available():
        for slot in range(4):
            _assign(scores, slots, slot)
    new = slots.t().flatten()
    return new if _kept(scores[:, new]) > _kept(scores) else old


def assignment_available() -> bool:
    """Return whether scipy is installed, which solves the assignments."""
    return importlib.util.find_spec("scipy") is not None


def _assign(scores: Tensor, slots: Tensor, slot: int) -> None:
    """Reassign the channels of one slot, ``slots[slot]``, to the groups, in place."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped,unused-ignore]

    others = [s for s in range(4) if s != slot]
    second = scores[:, slots[others]].topk(2, dim=1).values[:, 1]
    newcomer = scores[:, slots[slot]]
    # With a ≥ b the best of a group's others, a newcomer x makes it keep a + max(b, x): the sum over rows is
    # half of Σb + Σx + Σ|b − x|, of which an assignment changes only the last term.
    gain = torch.cdist(second.t().contiguous(), newcomer.t().contiguous(), p=1)
    _, chosen = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    slots[slot] = slots[slot][torch.as_tensor(chosen, device=slots.device)]


def _kept(scores: Tensor) -> float:
    return float((scores * portable.keep_mask(scores).flatten(1)).sum(dtype=torch.float64))
