"""Timing that compares: all sides in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence


def once(run: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(
    sides: Sequence[Callable[[int], object]], *, seconds: float = 1.0, least: int = 7, most: int = 400
) -> list[list[float]]:
    """Time several sides in turns, in an order that changes, so that none always follows the same one.

    Args:
        sides: each is called with the number of its turn (to rotate its data) and returns when it is done.
        seconds: about how long to measure, all sides together.
        least: fewest turns.
        most: most turns.

    Returns:
        The seconds of every turn, one list for each side.
    """
    for side in sides:
        side(0)
    orders = itertools.cycle(itertools.permutations(range(len(sides))))
    times: list[list[float]] = [[] for _ in sides]
    turns = least
    for turn in range(most):
        if turn >= turns:
            break
        for index in next(orders):
            times[index].append(once(functools.partial(sides[index], turn + 1)))
        if turn == 0:
            turns = max(least, int(seconds / max(sum(sum(seen) for seen in times), 1e-9)))
    return times


def medians(sides: Sequence[Callable[[int], object]], **limits: float) -> list[float]:
    """The median seconds of each side, measured as `interleaved` does with the same limits."""
    return [statistics.median(times) for times in interleaved(sides, **limits)]  # type: ignore[arg-type]
