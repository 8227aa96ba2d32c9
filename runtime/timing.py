"""Interleaved timing of several sides, so that a disturbance of the machine affects all of them."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

Side = Callable[[int], object]
"""What is timed. It takes the number of the round, for rotating its data, and returns when it is done."""


Stopwatch = Callable[[Callable[[], object]], float]
"""Makes one call and returns how many seconds it took."""

LEAST_OWN_PART = 0.5
"""The least part of a call's elapsed time for which its thread's processor time is believed."""


def once(run: Callable[[], object]) -> float:
    """Make one call; return the seconds that passed."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def once_on_this_thread(run: Callable[[], object]) -> float:
    """Make one call; return its seconds of processor time on this thread, where other threads do nothing.

    Processor time leaves out what other processes took. A guest whose host takes time away makes up for it
    late: its clocks of processor time may stand still during a short call. So the seconds that passed are
    returned if the thread seems to have worked for less than `LEAST_OWN_PART` of them.
    """
    start, used = time.perf_counter(), time.thread_time()
    run()
    used, passed = time.thread_time() - used, time.perf_counter() - start
    return used if used >= LEAST_OWN_PART * passed else passed


class Turns:
    """Rounds in which every side runs once, in a changing order: no side always follows the same other.

    Args:
        sides: what is compared; each first runs once without being timed.
        stopwatch: times one call.
    """

    def __init__(self, sides: Sequence[Side], stopwatch: Stopwatch = once) -> None:
        self._sides, self._stopwatch = sides, stopwatch
        self._orders = itertools.cycle(itertools.permutations(range(len(sides))))
        for side in sides:
            side(0)

    def __call__(self, turn: int) -> list[float]:
        """Run the round with the given number; return the seconds of each side."""
        times = [0.0] * len(self._sides)
        for index in next(self._orders):
            times[index] = self._stopwatch(functools.partial(self._sides[index], turn + 1))
        return times


def interleaved(
    sides: Sequence[Side], *, seconds: float = 1.0, least: int = 7, most: int = 400
) -> list[list[float]]:
    """Time several sides in turns.

    Args:
        sides: what is compared.
        seconds: the approximate duration, of all sides together.
        least: the fewest rounds.
        most: the most rounds.

    Returns:
        One list for each side with its seconds in every round.
    """
    turns = Turns(sides)
    rounds = [turns(0)]
    wanted = min(most, max(least, int(seconds / max(sum(rounds[0]), 1e-9))))
    rounds += [turns(turn) for turn in range(1, wanted)]
    return [list(times) for times in zip(*rounds, strict=True)]


def medians(sides: Sequence[Side], **limits: float) -> list[float]:
    """Return the median seconds of each side, measured by `interleaved` with the same limits."""
    return [statistics.median(times) for times in interleaved(sides, **limits)]  # type: ignore[arg-type]
