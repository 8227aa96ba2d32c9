"""Selection rules for scores, set to select a given share of neurons."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["threshold", "top_k", "statistical", "gate"]


def top(values: Tensor, rate: float) -> Tensor:
    """Return a mask of each row's largest values ``[rows, I]``: a share `rate`, at least one."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    return mask.scatter_(1, values.topk(count_of(rate, values.shape[1]), dim=1).indices, True)


def count_of(rate: float, neurons: int) -> int:
    """Return the number of neurons in a share, at least one."""
    return max(1, min(neurons, round(rate * neurons)))


def parameter_for(scores: Tensor, rule: Rule, rate: float) -> float:
    """Return the rule's parameter that selects about `rate` of the neurons by scores ``[rows, I]``."""
    if rule == "top_k":
        return float(count_of(rate, scores.shape[1]))
    if rule == "statistical":
        wide = scores.double()
        scores = (wide - wide.mean(1, keepdim=True)) / wide.std(1, correction=0, keepdim=True).clamp(
            min=1e-12
        )
    every = scores.flatten()
    kept = max(1, min(len(every) - 1, round(rate * len(every))))
    # Values above the largest one to leave out are selected.
    return float(every.kthvalue(len(every) - kept).values)


def union_rates(mask: Tensor, sizes: tuple[int, ...], generator: torch.Generator) -> dict[int, float]:
    """Return by m the mean share of neurons that any of m random rows of a mask selects.

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
