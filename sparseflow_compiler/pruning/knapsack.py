"""Solve the multiple-choice knapsack problem over real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_STATES = 4096
"""Sets of choices that no other beats in both cost and worth, kept at a time; with more, only the best of
each small step in cost."""

Option = tuple[float, float]
"""Cost and worth."""


class Front:
    """For every budget up to a limit, the choice of one option an item that is worth most.

    By dynamic programming over the sets of choices that no other beats. Exact for up to `MOST_STATES` of
    them; beyond, worth may be lost, but a budget is never exceeded.

    Args:
        items: the options of each item; costs ≥ 0, worths of any sign.
        limit: the greatest budget that is asked for.
    """

    def __init__(self, items: Sequence[Sequence[Option]], limit: float) -> None:
        self._cost = self._worth = torch.zeros(1, dtype=torch.float64)
        self._steps: list[tuple[Tensor, Tensor]] = []
        for options in items:
            self._extend(options, limit)

    def within(self, budget: float) -> list[int] | None:
        """Return the index of each item's option, the dearest of all within a budget; None if none is."""
        fits = int((self._cost <= budget).sum())
        if not fits:
            return None
        state, chosen = fits - 1, []  # worth rises with cost along the front
        for option, parent in reversed(self._steps):
            chosen.append(int(option[state]))
            state = int(parent[state])
        return chosen[::-1]

    def _extend(self, options: Sequence[Option], limit: float) -> None:
        added = torch.tensor(options, dtype=torch.float64).reshape(-1, 2)
        cost = (self._cost[None] + added[:, :1]).flatten()
        worth = (self._worth[None] + added[:, 1:]).flatten()
        order = torch.argsort(worth, descending=True, stable=True)
        order = order[torch.argsort(cost[order], stable=True)]
        order = order[cost[order] <= limit]
        order = order[_undominated(worth[order])]
        order = order[_thinned(cost[order], limit)]
        states = len(self._cost)
        self._steps.append((order // states, order % states))
        self._cost, self._worth = cost[order], worth[order]


def _undominated(worth: Tensor) -> Tensor:
    """Return which states, ordered by cost, are worth more than all before them, bool ``[states]``."""
    before = torch.full_like(worth, -torch.inf)
    if len(worth) > 1:
        before[1:] = worth.cummax(0).values[:-1]
    return worth > before


def _thinned(cost: Tensor, limit: float) -> Tensor:
    """Return the indices of at most `MOST_STATES` states: the last, and so best, of each step in cost."""
    if len(cost) <= MOST_STATES:
        return torch.arange(len(cost))
    step = (cost / limit * (MOST_STATES - 1)).long()
    last = torch.ones(len(cost), dtype=torch.bool)
    last[:-1] = step[1:] != step[:-1]
    return last.nonzero().flatten()
