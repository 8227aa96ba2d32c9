"""The rule by which times survive a noisy machine, one for all measurements that decide something.

Sides run in turns, round after round, so that a slow phase of the machine hits all of them. What is above
``OUTLIER`` times a side's fastest was disturbed and is dropped; the side's time is the lower quartile of
the rest. Rounds repeat until, on every side, the ``AGREE`` times around that quartile lie within ``WITHIN``,
or a bound is reached; the spread that is left says what the result is worth.

Recorded times (`benchmarks/_trace.py`) spoke against two other rules. Ratios within single rounds would
cancel slow phases too, but a time that another process doubled is far more frequent, and spoils its round for
all sides. The few fastest times of a side are those of a weight that happened to lie in a cache.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

AGREE = 3
"""How many times have to agree."""

WITHIN = 0.03
"""How far they may lie apart."""

PATIENT = 2 * AGREE
"""So many rounds are tried where times don't agree, however slow they are."""

LOOSE = 0.06
"""Times further apart when the bound is reached are doubtful."""

OUTLIER = 2.0
"""What is above this many times a side's fastest is no time of that side."""


@dataclass(frozen=True)
class Settled:
    """What several sides took.

    Attributes:
        times: of each side, in the unit that was measured.
        spread: how far those around the quartile lie apart, of the side where that is most: 0.03 are 3%.
        rounds: how often each side ran.
    """

    times: tuple[float, ...]
    spread: float
    rounds: int


def settle(
    turn: Callable[[int], Sequence[float]],
    *,
    least: int = AGREE,
    most: int,
    enough: float = 0.0,
    limit: float,
) -> Settled:
    """Repeat rounds until all sides agree with themselves.

    Args:
        turn: runs the round of that number and returns each side's time.
        least: fewest rounds.
        most: most rounds.
        enough: the time of all sides together before which agreement may be chance, in the unit of ``turn``.
        limit: of the time of all sides together, after which it is tried no longer, but ``PATIENT`` rounds.
    """

    def wanted() -> bool:
        if spent < enough:
            return spent < limit
        return (spent < limit or done < PATIENT) and _spread(sides) > WITHIN

    sides: list[list[float]] = []
    spent, done = 0.0, 0
    while done < least or (done < most and wanted()):
        times = turn(done)
        sides = sides or [[] for _ in times]
        for side, time in zip(sides, times, strict=True):
            bisect.insort(side, time)
        spent, done = spent + sum(times), done + 1
    return Settled(tuple(map(_quartile, sides)), _spread(sides), done)


def _kept(side: Sequence[float]) -> int:
    return bisect.bisect_right(side, OUTLIER * side[0])


def _quartile(side: Sequence[float]) -> float:
    return side[_kept(side) // 4]


def _spread(sides: Sequence[Sequence[float]]) -> float:
    return max(map(_apart, sides))


def _apart(side: Sequence[float]) -> float:
    """How far the times around the quartile lie apart; outliers among them where too few others are left."""
    first = max(0, _kept(side) // 4 - 1)
    around = side[first : first + AGREE]
    return around[-1] / around[0] - 1
