"""Choose the share of inputs that each layer leaves out, to lose least for the bytes saved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEP = 0.05
RATES = torch.arange(0, 19, dtype=torch.float64) * STEP
"""The shares among which is chosen: 0 … 90%."""

_BISECTIONS = 60


def cheapest_rates(costs: Tensor, weights: Tensor, rate: float) -> list[int]:
    """Return for each layer the index in `RATES` so that together they save `rate` and cost least.

    A knapsack with one choice a layer, solved by a Lagrange multiplier: for a price of a saved byte each
    layer chooses by itself; the lowest price at which all together save enough is found by bisection. It is
    within one step of one layer of the optimum.

    Args:
        costs: ``[layers, rates]`` of leaving out each share.
        weights: ``[layers]`` bytes of their weights, or seconds that reading them takes.
        rate: the share of all of them to save, 0 … `RATES`' last.
    """
    steady = costs.double().cummax(1).values
    saved = weights.double()[:, None] / weights.sum() * RATES
    low, high = -60.0, 60.0
    best = torch.full((len(costs),), len(RATES) - 1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        chosen = (steady - math.exp(middle) * saved).argmin(1)
        if saved.gather(1, chosen[:, None]).sum() < rate - 1e-9:
            low = middle
        else:
            high, best = middle, chosen
    return [int(index) for index in best]
