"""Solve the 0/1 knapsack problem over real numbers."""

from __future__ import annotations

from collections.abc import Sequence

MOST_STATES = 4096
"""Sets of items that no other beats in both cost and worth, kept at a time; with more, only the best of each
small step in cost."""

_Set = tuple[float, float, int]
"""Cost, worth, and the items as bits."""


def best_within(costs: Sequence[float], worths: Sequence[float], budget: float) -> set[int]:
    """Return the items of greatest total worth whose total cost is at most `budget`.

    Exact for up to `MOST_STATES` undominated sets; beyond, worth may be lost, but the budget is never
    exceeded. Items without worth are not taken.

    Args:
        costs: ≥ 0 each.
        worths: of the same items.
        budget: ≥ 0.

    Returns:
        Their indices.
    """
    front: list[_Set] = [(0.0, 0.0, 0)]
    for item, (cost, worth) in enumerate(zip(costs, worths, strict=True)):
        if worth <= 0 or cost > budget:
            continue
        more = [(c + cost, w + worth, bits | 1 << item) for c, w, bits in front if c + cost <= budget]
        front = _thinned(_undominated(sorted(front + more, key=lambda entry: (entry[0], -entry[1]))), budget)
    bits = max(front, key=lambda entry: entry[1])[2]
    return {item for item in range(len(costs)) if bits >> item & 1}


def _undominated(ordered: Sequence[_Set]) -> list[_Set]:
    kept: list[_Set] = []
    for entry in ordered:
        if not kept or entry[1] > kept[-1][1]:
            kept.append(entry)
    return kept


def _thinned(front: list[_Set], budget: float) -> list[_Set]:
    if len(front) <= MOST_STATES:
        return front
    # Worth rises with cost along the front: the last of a step in cost is its best.
    return list({int(entry[0] / budget * (MOST_STATES - 1)): entry for entry in front}.values())
