"""Choice of a GPU policy from tuned points: sparse where it was measured to win, else dense.

A sparse range starts at the smallest M whose speed-up is at least 1.05 while all larger tuned M's reach 1.02,
each with the points' margin counted.
If M's in between lose, each stretch of M's without a loss is judged by this rule on its own.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.kernels import Choice
from sparseflow.support.arguments import Memory

START = 1.05
"""The least speed-up at the start of a sparse range; less may be noise, which must not slow a layer down."""

KEEP = 1.02
"""The least speed-up of every M of a sparse range."""

STAY = 1.01
"""An algorithm that already runs is kept while it is at most this factor slower than the best one."""

DENSE = Choice("dense")


@dataclass(frozen=True)
class Timed:
    """One M of one layer, with the time of each way of running it, in any unit.

    Attributes:
        m: rows of x.
        dense: the dense product with a dense weight, which every speed-up refers to.
        unpacked: the dense product including the decompression of the weight.
        sparse: each sparse way that gave the right product.
        margin: what a sparse way must save to win, besides its share: times of one kernel differ by as much
            between processes.
    """

    m: int
    dense: float
    unpacked: float
    sparse: Mapping[Choice, float] = field(default_factory=dict)
    margin: float = 0.0

    def best(self) -> tuple[Choice, float] | None:
        """Return the fastest sparse way and its time, or None."""
        return min(self.sparse.items(), key=lambda way: way[1], default=None)

    def gain(self) -> float:
        """Return the speed-up of the fastest sparse way with the margin added; 0 if there is none."""
        best = self.best()
        return self.dense / (best[1] + self.margin) if best else 0.0


def choose_by_thresholds(points: Iterable[Timed], memory: Memory = "compressed") -> Policy:
    """Return the policy that the tuned points of one layer justify.

    From each tuned M up to the next, the choice at that M holds, unless it loses at the next: kernels take
    rows in steps of 8 to 64, so that it may lose right behind its M. With a dense copy what runs at the next
    M then runs from there, or dense if that may lose too. Below the first tuned M, dense runs. Where the rule
    says dense but memory mode ``compressed`` keeps no dense weight, the faster of decompressing and running
    sparse is chosen. Such a range is slower than dense, and ``Policy.losing`` lists it.

    Args:
        points: each M once, in any order.
        memory: whether the dense weight is kept. ``"auto"`` keeps it if some M would lose without it; whether
            it is worth its memory is decided by `products.copies`.

    Raises:
        ArgumentError: there are no points, or an M appears twice.
    """
    ordered = sorted(points, key=lambda point: point.m)
    if not ordered or len({point.m for point in ordered}) < len(ordered):
        raise ArgumentError("choose_by_thresholds", "needs the points of one layer, each M once")
    if memory == "auto":
        return _policy(ordered, copied=False).unless_losing(_policy(ordered, copied=True))
    return _policy(ordered, copied=memory == "fast")


def _policy(ordered: Sequence[Timed], *, copied: bool) -> Policy:
    by_m = {point.m: point for point in ordered}
    wins = _wins([point.gain() for point in ordered])
    chosen: list[Choice] = []
    for point, win in zip(ordered, wins, strict=True):
        chosen.append(_choice(point, win, copied, chosen[-1] if chosen else DENSE))
    first = DENSE if copied else chosen[0]
    starts = [] if ordered[0].m == 1 else [(1, first)]
    starts += zip(by_m, chosen, strict=True)
    if copied:
        pairs = itertools.pairwise(zip(ordered, chosen, strict=True))
        more = [start for left, right in pairs for start in _between(*left, *right)]
        starts = sorted([*starts, *more], key=operator.itemgetter(0))

    def speedup(m: int, choice: Choice) -> float:
        return by_m[m].dense / _time(by_m[m], choice, copied)

    return Policy.of(starts, by_m, speedup, copied=copied)


def _wins(gains: list[float]) -> list[bool]:
    """Return for each M whether the rule runs it sparse."""
    wins: list[bool] = []
    for kept, stretch in itertools.groupby(gains, key=lambda gain: gain >= KEEP):
        started = False
        for gain in stretch:
            started = kept and (started or gain >= START)
            wins.append(started)
    return wins


def _between(left: Timed, before: Choice, right: Timed, after: Choice) -> list[tuple[int, Choice]]:
    """Return what starts between two tuned M's because the choice of the left one loses at the right one."""
    loses = after == DENSE or right.sparse.get(before, 0.0) > right.dense
    if before == DENSE or right.m == left.m + 1 or not loses:
        return []
    # Fewer rows take no longer, and dense no less than at the left M.
    wins = min(left.sparse.get(after, math.inf), right.sparse.get(after, math.inf)) <= left.dense
    return [(left.m + 1, after if wins else DENSE)]


def _choice(point: Timed, wins: bool, copied: bool, running: Choice) -> Choice:
    best = point.best()
    if best is None or not (wins or (not copied and best[1] < point.unpacked)):
        return DENSE
    return running if point.sparse.get(running, math.inf) <= STAY * best[1] else best[0]


def _time(point: Timed, choice: Choice, copied: bool) -> float:
    if choice != DENSE:
        return point.sparse[choice]
    return point.dense if copied else point.unpacked
