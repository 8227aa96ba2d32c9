"""Whether other processes left enough of the processor for a measurement to mean something."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# The columns of /proc/stat that are work: user, nice, system, irq, softirq, steal.
_WORK = (0, 1, 2, 5, 6, 7)
# A thread that gets less of its core than this spends its time waiting, and its team waits with it.
NEEDED_SHARE = 0.8


class LoadMeter:
    """Counts, from its creation on, the time that other processes run on the cores this process may use."""

    def __init__(self) -> None:
        self._start = _sample()

    def crowded(self, threads: int) -> bool:
        """Whether less than ``threads`` cores were left; False where the system doesn't tell."""
        wall, busy, own = (now - then for now, then in zip(_sample(), self._start, strict=True))
        if wall <= 0:
            return False
        cores = len(os.sched_getaffinity(0))
        left = cores - max(0.0, busy - own) / wall
        return left < NEEDED_SHARE * min(threads, cores)


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
