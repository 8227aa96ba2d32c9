"""Intervals of shares and of ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_Z = 1.959964
"""The 97.5th percentile of the normal distribution."""
RESAMPLES = 2000

Interval = tuple[float, float]
"""The limits that hold the true value with 95%."""


def wilson(hits: int, count: int) -> Interval:
    """Return Wilson's score interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    low = 0.0 if hits == 0 else middle - half
    return low, 1.0 if hits == count else middle + half


def bootstrap(values: Sequence[float], seed: int) -> Interval:
    """Return the percentile interval of a mean, by resampling the values with replacement (Efron, 1979).

    Args:
        values: at least one; what they were measured on is taken to be independent of one another.
        seed: of the resampling.
    """
    found = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(found), (RESAMPLES, len(found)), generator=generator)
    means = found[drawn].mean(1).sort().values
    return float(means[int(0.025 * RESAMPLES)]), float(means[int(0.975 * RESAMPLES) - 1])
