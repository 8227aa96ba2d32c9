"""Quantiles of the magnitudes of a stream of values, from a histogram."""

from __future__ import annotations

import torch
from torch import Tensor

_DROPPED_BITS = 17
"""Of a float32's mantissa; the 6 that stay make 64 bins of an octave, each at most 1.6% wide."""

_ROUNDING = 2.0**-23

_BINS = 1 << (31 - _DROPPED_BITS)


class Magnitudes:
    """A histogram of |x| whose bins are the floats of equal leading bits, so that no value is kept.

    Args:
        device: of the values.
    """

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(_BINS, dtype=torch.int64, device=device)

    def add(self, x: Tensor) -> None:
        """Count the values of a tensor of any shape and floating dtype."""
        bits = x.detach().float().abs().contiguous().view(torch.int32) >> _DROPPED_BITS
        self._counts += torch.bincount(bits.flatten(), minlength=_BINS)

    @property
    def is_finite(self) -> bool:
        """Whether no value was NaN or Inf."""
        return not bool(self._counts[_lower_bin(float("inf")) :].any())

    def quantiles(self, shares: Tensor) -> Tensor:
        """Return for each share the magnitude that this share of the values is smaller than, linear in a bin.

        Args:
            shares: ``[n]``, 0 … 1.

        Returns:
            ``[n]`` float32 on the CPU; 0 for a share of 0.
        """
        counts = self._counts.cpu().double()
        below = counts.cumsum(0)
        # A share such as 1/3 of three values is one of them, though float32 rounds the share up.
        wanted = shares.double() * (1 - _ROUNDING) * below[-1]
        at = torch.searchsorted(below, wanted).clamp(max=_BINS - 1)
        inside = (wanted - (below[at] - counts[at])) / counts[at].clamp(min=1)
        low, high = _edge(at).double(), _edge(at + 1).double()
        found = (low + inside.clamp(0, 1) * (high - low)).float()
        return torch.where(shares > 0, found, 0.0)


def _lower_bin(value: float) -> int:
    return int(torch.tensor([value]).view(torch.int32)) >> _DROPPED_BITS


def _edge(bins: Tensor) -> Tensor:
    """Return the least value of each bin."""
    return (bins.to(torch.int32) << _DROPPED_BITS).view(torch.float32)
