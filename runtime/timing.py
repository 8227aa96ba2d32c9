"""Timing that compares: all sides in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

Side = Callable[[int], object]
"""Called with the number of its turn (to rotate its data); returns when it is done."""


def once(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that one call takes by a clock."""
    start = clock()
    run()
    return clock() - start


class Turns:
    """Rounds in which every side runs once, in an order that changes: none always follows the same one.

    Args:
        sides: what is compared; each runs once at first, which isn't timed.
        clock: in seconds.
    """

    def __init__(self, sides: Sequence[Side], clock: Callable[[], float] = time.perf_counter) -> None:
        self._sides, self._clock = sides, clock
        self._orders = itertools.cycle(itertools.permutations(range(len(sides))))
        for side in sides:
            side(0)

    def __call__(self, turn: int) -> list[float]:
        """The seconds of each side in the round of that number."""
        times = [0.0] * len(self._sides)
        for index in next(self._orders):
            times[index] = once(functools.partial(self._sides[index], turn + 1), self._clock)
        return times


def interleaved(
    sides: Sequence[Side], *, seconds: float = 1.0, least: int = 7, most: int = 400
) -> list[list[float]]:
    """Time several sides in turns.

    Args:
        sides: what is compared.
        seconds: about how long to measure, all sides together.
        least: fewest turns.
        most: most turns.

    Returns:
        The seconds of every turn, one list for each side.
    """
    turns = Turns(sides)
    rounds = [turns(0)]
    wanted = min(most, max(least, int(seconds / max(sum(rounds[0]), 1e-9))))
    rounds += [turns(turn) for turn in range(1, wanted)]
    return [list(times) for times in zip(*rounds, strict=True)]


def medians(sides: Sequence[Side], **limits: float) -> list[float]:
    """The median seconds of each side, measured as `interleaved` does with the same limits."""
    return [statistics.median(times) for times in interleaved(sides, **limits)]  # type: ignore[arg-type]
