"""Rules that turn scores into neurons, set so that a given share of them is selected."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["threshold", "top_k", "statistical", "gate"]


def top(values: Tensor, rate: float) -> Tensor:
    """The largest values of each row ``[rows, I]``, as many as `rate` of I and at least one: a mask."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    return mask.scatter_(1, values.topk(count_of(rate, values.shape[1]), dim=1).indices, True)


def count_of(rate: float, neurons: int) -> int:
    """How many neurons a share of them is, at least one."""
    return max(1, min(neurons, round(rate * neurons)))


def parameter_for(scores: Tensor, rule: Rule, rate: float) -> float:
    """The rule's parameter that selects about `rate` of the neurons over all rows of scores ``[rows, I]``."""
    if rule == "top_k":
        return float(count_of(rate, scores.shape[1]))
    if rule == "statistical":
        wide = scores.double()
        scores = (wide - wide.mean(1, keepdim=True)) / wide.std(1, correction=0, keepdim=True).clamp(
            min=1e-12
        )
    every = scores.flatten()
    kept = max(1, min(len(every) - 1, round(rate * len(every))))
    # Selected is what is above the largest value that is to be left out.
    return float(every.kthvalue(len(every) - kept).values)


def union_rates(mask: Tensor, sizes: tuple[int, ...], generator: torch.Generator) -> dict[int, float]:
    """The share of neurons that any of m rows selects, by m: the mean over random rows of a mask.

    Args:
        mask: ``[rows, I]``.
        sizes: the m's; those with fewer rows than m are left out.
        generator: on the CPU.
    """
    order = torch.randperm(len(mask), generator=generator).to(mask.device)
    found = {}
    for m in sizes:
        groups = len(order) // m
        if groups:
            together = mask[order[: groups * m]].reshape(groups, m, -1).any(1)
            found[m] = float(together.float().mean())
    return found
