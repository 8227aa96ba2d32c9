"""A meter of the processor time that other processes take while something is measured."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# The columns of /proc/stat that count work: user, nice, system, irq, softirq, steal.
_WORK = (0, 1, 2, 5, 6, 7)
# A thread with a smaller share of its core delays its whole team at every barrier.
NEEDED_SHARE = 0.8
# The share of each core that a system's background work takes; it grows with the number of cores.
BACKGROUND = 0.02
# Seconds. The system counts in hundredths of a second, so over a shorter time a single tick would look like
# load.
WINDOW = 0.1


class LoadMeter:
    """Measures the share of the available cores that other processes use, from its creation on."""

    def __init__(self) -> None:
        self._start = _sample()
        self._taken = 0.0

    def free(self, threads: int) -> int:
        """Return how many of ``threads`` threads had a core to themselves since the last call; at least 1.

        Calls within ``WINDOW`` seconds of each other return the same answer. If the system doesn't report the
        load, the answer is ``threads``.
        """
        now = _sample()
        wall, busy, own = (later - earlier for later, earlier in zip(now, self._start, strict=True))
        if wall >= WINDOW:
            self._taken, self._start = max(0.0, busy - own) / wall, now
        cores = len(os.sched_getaffinity(0))
        left = cores - self._taken + max(1 - NEEDED_SHARE, BACKGROUND * cores)
        return threads if left >= min(threads, cores) else max(1, math.floor(left))

    def crowded(self, threads: int) -> bool:
        """Return whether other processes used cores that ``threads`` threads need."""
        return self.free(threads) < threads


def _sample() -> tuple[float, float, float]:
    """Return seconds of wall clock, of work of all processes on our cores, and of work of this process."""
    own = os.times()
    return time.perf_counter(), _busy_seconds(), own.user + own.system


def _busy_seconds() -> float:
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        rows = [line.split() for line in STAT.read_text().splitlines()]
        ticks = sum(int(row[1 + column]) for row in rows if row and row[0] in cores for column in _WORK)
    except (OSError, ValueError, IndexError):
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")
