"""Device and wall time of GPU calls, all sides of a comparison in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparseflow.runtime.tuning.replay import Replay

Call = Callable[[int], Any]
"""Runs one side on the n-th copy of its weights."""

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

_CYCLES_A_SECOND = 2e9  # at least: an H200 clocks at 1.98 GHz


class Hidden:
    """A side that can't be captured in a CUDA graph: its launches are hidden behind a waiting kernel.

    Args:
        call: makes the product with the copy of that number.
        copies: how many there are.
    """

    def __init__(self, call: Call, copies: int) -> None:
        self._call, self._copies = call, copies
        call(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(0)
        torch.cuda.synchronize()
        self._cycles = int(1.5 * copies * (time.perf_counter() - start) * _CYCLES_A_SECOND)

    def us(self) -> float:
        """Microseconds of device time of one call."""
        start, end = (_CUDA.Event(enable_timing=True) for _ in range(2))
        _CUDA._sleep(self._cycles)
        start.record()
        for copy in range(self._copies):
            self._call(copy)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / self._copies


def device_us(
    captured: Mapping[str, Call], hidden: Mapping[str, Call], copies: int, seconds: float
) -> dict[str, float]:
    """Median microseconds of device time of one call of each side, sides in turn, the order rotating.

    Args:
        captured: sides that run as CUDA graphs, by name.
        hidden: sides that can't.
        copies: how many copies of the weights the calls rotate over.
        seconds: about how long to measure, after five turns at least.
    """
    pool = torch.cuda.graph_pool_handle()
    timers: dict[str, Replay | Hidden] = {n: Replay(call, copies, pool) for n, call in captured.items()}
    timers |= {name: Hidden(call, copies) for name, call in hidden.items()}
    return in_turns({name: timer.us for name, timer in timers.items()}, seconds)


def wall_us(sides: Mapping[str, Call], copies: int, seconds: float) -> dict[str, float]:
    """Median microseconds of wall time of one eager call of each side: bursts, until the device is done."""
    return in_turns({name: _burst(call, copies) for name, call in sides.items()}, seconds)


def _burst(call: Call, copies: int) -> Callable[[], float]:
    call(0)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call(0)
    torch.cuda.synchronize()
    count = max(1, min(20, int(0.02 / (time.perf_counter() - begin))))

    def run() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for turn in range(count):
            call(turn % copies)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e6 / count

    return run


def in_turns(timers: Mapping[str, Callable[[], float]], seconds: float, most: int = 50) -> dict[str, float]:
    """The median of what each timer returns, in turn, the order rotating; a first round isn't counted.

    Args:
        timers: by name.
        seconds: about how long to measure, after five turns at least.
        most: turns.
    """
    names = list(timers)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        timers[name]()
    begin, turn = time.perf_counter(), 0
    while turn < 5 or (turn < most and time.perf_counter() - begin < seconds):
        for at in range(len(names)):
            name = names[(at + turn) % len(names)]
            times[name].append(timers[name]())
        turn += 1
    return {name: statistics.median(seen) for name, seen in times.items()}
