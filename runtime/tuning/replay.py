"""Device time of a call, by replaying a CUDA graph that makes it once for each copy of a weight."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime.tuning.layers import relative_error

Pool = Any
"""The memory that graphs share; torch's type of it has changed its name."""

# torch's own annotations are incomplete here.
_cuda: Any = torch.cuda

# Cycles that the GPU waits before a replay, so that it doesn't wait for the launch within the measured time.
_LEAD_CYCLES = 100_000
_LEAD_CYCLES_A_CALL = 1_000

CALLS = 16
"""A graph takes some microseconds to start: over this many calls they are few."""


class Spoilt(Exception):  # noqa: N818 - ends the child, which has said what it has to say
    """The process can't use CUDA any more."""


class Replay:
    """A graph of calls on the current stream, which must not be the default one.

    Args:
        call: makes the product with the copy of that number. It runs once outside the graph first, and raises
            there what it raises.
        copies: how many there are; the graph calls each equally often.
        pool: of the graphs that are replayed in turns.
        calls: how many the graph makes at least.

    Attributes:
        y: the result of the last call; ``forget`` drops it.

    Raises:
        Spoilt: the call ran, but not while captured.
    """

    def __init__(self, call: Callable[[int], Tensor], copies: int, pool: Pool, calls: int = CALLS) -> None:
        call(0)
        torch.cuda.synchronize()
        self._calls = copies * -(-calls // copies)
        self._graph = torch.cuda.CUDAGraph()
        self._start, self._end = (_cuda.Event(enable_timing=True) for _ in range(2))
        try:
            # Worker threads build plans meanwhile, and what they do to the device is none of this capture's.
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            for turn in range(self._calls):
                self.y: Tensor | None = call(turn % copies)
            self._graph.capture_end()
        except RuntimeError as error:
            raise Spoilt(f"can't be captured in a CUDA graph: {first_line(error)}") from None

    def error(self, expected: Tensor) -> float:
        """The relative error of a replay whose result holds NaN before; also warms the graph up."""
        assert self.y is not None
        self.y.fill_(float("nan"))
        self._graph.replay()
        return relative_error(self.y, expected)

    def forget(self) -> None:
        """Let other graphs of the pool use the memory of the result."""
        self.y = None

    def us(self) -> float:
        """Microseconds of one call."""
        _cuda._sleep(_LEAD_CYCLES + _LEAD_CYCLES_A_CALL * self._calls)
        self._start.record()
        self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return 1e3 * float(self._start.elapsed_time(self._end)) / self._calls


def in_turns(sides: Sequence[Replay], rounds: int, before: Callable[[int], None]) -> list[float]:
    """The median microseconds of each side, all replayed in turns in an order that rotates.

    Args:
        sides: what is compared.
        rounds: how often each runs, after one replay that isn't counted.
        before: called with the number of the side that is about to run.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn, index in _turns(len(sides), rounds + 1):
        before(index)
        us = sides[index].us()
        if turn:
            times[index].append(us)
    return [statistics.median(seen) for seen in times]


def _turns(sides: int, rounds: int) -> Iterator[tuple[int, int]]:
    for turn in range(rounds):
        # Backwards every other time: no side always follows the same one.
        order = [(turn + place) % sides for place in range(sides)]
        yield from ((turn, index) for index in (order if turn % 2 else reversed(order)))


def first_line(error: BaseException) -> str:
    """Of an error's text, for a report."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def alive() -> bool:
    """Return whether CUDA still works in this process: some errors are permanent."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
