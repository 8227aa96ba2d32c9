"""Whether other processes left enough of the processor for a measurement to mean something."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# The columns of /proc/stat that are work: user, nice, system, irq, softirq, steal.
_WORK = (0, 1, 2, 5, 6, 7)
# A thread that gets less of its core than this spends its time waiting, and its team waits with it.
NEEDED_SHARE = 0.8
# What a system does beside us grows with its cores.
BACKGROUND = 0.02
# The system counts in hundredths of a second: over less than this, one of them would look like a crowd.
WINDOW = 0.1


class LoadMeter:
    """Watches how much of the cores that this process may use others take, from its creation on."""

    def __init__(self) -> None:
        self._start = _sample()
        self._taken = 0.0

    def free(self, threads: int) -> int:
        """How many of ``threads`` threads had a core to themselves since the call before; 1 at least.

        Calls that follow each other within ``WINDOW`` seconds share an answer. Where the system doesn't tell,
        all of them had.
        """
        now = _sample()
        wall, busy, own = (later - earlier for later, earlier in zip(now, self._start, strict=True))
        if wall >= WINDOW:
            self._taken, self._start = max(0.0, busy - own) / wall, now
        cores = len(os.sched_getaffinity(0))
        left = cores - self._taken + max(1 - NEEDED_SHARE, BACKGROUND * cores)
        return threads if left >= min(threads, cores) else max(1, math.floor(left))

    def crowded(self, threads: int) -> bool:
        """Whether others took cores that so many threads need."""
        return self.free(threads) < threads


def _sample() -> tuple[float, float, float]:
    """Seconds: wall clock, work of all processes on our cores, work of this process."""
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
