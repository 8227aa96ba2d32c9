"""Robust timing on a noisy machine, for every measurement that decides something.

The sides run in turns, round after round, so that a slow phase of the machine affects all of them. A time
above ``OUTLIER`` times a side's fastest counts as disturbed and is dropped; the side's result is the lower
quartile of the others. Rounds repeat until the ``AGREE`` times around that quartile lie within ``WITHIN`` on
every side, or a limit is reached. The remaining spread tells how far the result can be trusted.

Recorded times (`benchmarks/_trace.py`) ruled out two alternatives. Ratios within a round cancel slow phases
too, but a single time that another process doubles is far more frequent, and spoils the ratios of all sides
in its round. A side's few fastest times are of calls whose weight happened to be in the cache.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

AGREE = 3
"""The number of times of a side that have to agree."""

WITHIN = 0.03
"""The largest relative difference between times that agree."""

PATIENT = 2 * AGREE
"""The least number of rounds before times that don't agree are accepted, even beyond the time limit."""

LOOSE = 0.06
"""The spread from which on the result of a measurement that reached its limit is doubtful."""

OUTLIER = 2.0
"""A time more than this factor above the side's fastest is dropped."""


@dataclass(frozen=True)
class Settled:
    """The measured times of several sides.

    Attributes:
        times: each side's time, in the unit of the measurement.
        spread: the relative difference between the times around the quartile, of the side where it is
            largest; 0.03 is 3%.
        rounds: the number of rounds.
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
    """Repeat rounds until the times of every side agree, or a limit is reached.

    Args:
        turn: runs the round with the given number and returns each side's time.
        least: the fewest rounds.
        most: the most rounds.
        enough: the total time of all sides, in the unit of ``turn``, before which agreement may be chance.
        limit: the total time of all sides after which no round follows; ``PATIENT`` rounds run in any case.
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
    """Return the relative difference of the times around the quartile.

    Outliers are among them if too few other times are left.
    """
    first = max(0, _kept(side) // 4 - 1)
    around = side[first : first + AGREE]
    return around[-1] / around[0] - 1
