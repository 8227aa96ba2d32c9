"""From tuned points on a GPU to a policy: sparse where it was measured to win, dense everywhere else.

A sparse range starts at the smallest M whose speed-up is at least 1.05 while all larger tuned M's reach 1.02.
With holes, M's in between that lose, each stretch of M's without a loss is judged so by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.kernels import Choice
from sparseflow.support.arguments import Memory

START = 1.05
"""The speed-up with which a sparse range starts: less may be noise, which must not cost a layer its speed."""

KEEP = 1.02
"""The speed-up that every M of a sparse range has at least."""

STAY = 1.01
"""An algorithm already running is kept while it is at most this much slower than the best one."""

DENSE = Choice("dense")


@dataclass(frozen=True)
class Timed:
    """One M of one layer: what each way of running it took, in any unit of time.

    Attributes:
        m: rows of x.
        dense: the dense product with a dense weight, what every speed-up refers to.
        unpacked: the same after decompressing the weight.
        sparse: each sparse way that gave the right product.
    """

    m: int
    dense: float
    unpacked: float
    sparse: Mapping[Choice, float] = field(default_factory=dict)

    def best(self) -> tuple[Choice, float] | None:
        """The fastest sparse way and its time, or None."""
        return min(self.sparse.items(), key=lambda way: way[1], default=None)

    def gain(self) -> float:
        """Speed-up of the fastest sparse way; 0 where there is none."""
        best = self.best()
        return self.dense / best[1] if best else 0.0


def choose_by_thresholds(points: Iterable[Timed], memory: Memory = "compressed") -> Policy:
    """The policy that the tuned points of one layer justify.

    From each tuned M up to the next, what was chosen at that M runs; below the first tuned M, dense. Where
    the rule says dense and memory mode ``compressed`` keeps no dense weight, the faster of decompressing and
    running sparse all the same is chosen: such a range loses against dense, and ``Policy.losing`` lists it.

    Args:
        points: each M once, in any order.
        memory: whether the dense weight is kept. ``"auto"`` keeps it where some M would lose without; whether
            that pays is for others to judge.

    Raises:
        ArgumentError: no points, or an M twice.
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

    def speedup(m: int, choice: Choice) -> float:
        return by_m[m].dense / _time(by_m[m], choice, copied)

    return Policy.of(starts, by_m, speedup, copied=copied)


def _wins(gains: list[float]) -> list[bool]:
    """For each M whether the rule runs it sparse."""
    wins: list[bool] = []
    for kept, stretch in itertools.groupby(gains, key=lambda gain: gain >= KEEP):
        started = False
        for gain in stretch:
            started = kept and (started or gain >= START)
            wins.append(started)
    return wins


def _choice(point: Timed, wins: bool, copied: bool, running: Choice) -> Choice:
    best = point.best()
    if best is None or not (wins or (not copied and best[1] < point.unpacked)):
        return DENSE
    return running if point.sparse.get(running, math.inf) <= STAY * best[1] else best[0]


def _time(point: Timed, choice: Choice, copied: bool) -> float:
    if choice != DENSE:
        return point.sparse[choice]
    return point.dense if copied else point.unpacked
