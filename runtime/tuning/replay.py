"""Device time of a call, by replaying a CUDA graph that makes it once for each copy of a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime.robust import AGREE, settle
from sparseflow.runtime.tuning.layers import relative_error

Pool = Any
"""The memory that graphs share; torch's type of it has changed its name."""

# torch's own annotations are incomplete here.
_cuda: Any = torch.cuda

# Cycles that the GPU waits before a replay, so that it doesn't wait for the launch within the measured time.
_LEAD_CYCLES = 100_000
_LEAD_CYCLES_A_CALL = 1_000

DISTURBED = 3
"""A GPU that other processes use takes this many times the rounds to find as many undisturbed ones."""

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
    """The microseconds of each side, replayed in turns in an order that rotates, by `robust.settle`.

    Args:
        sides: what is compared.
        rounds: how often each runs at most, after one replay that isn't counted; ``DISTURBED`` times as often
            where other processes use the GPU, so that times don't agree.
        before: called with the number of the side that is about to run.
    """

    def turn(number: int) -> list[float]:
        times = [0.0] * len(sides)
        for index in _order(len(sides), number):
            before(index)
            times[index] = sides[index].us()
        return times

    turn(0)
    least = min(rounds, AGREE)
    settled = settle(lambda number: turn(number + 1), least=least, most=DISTURBED * rounds, limit=math.inf)
    return list(settled.times)


def _order(sides: int, turn: int) -> list[int]:
    order = [(turn + place) % sides for place in range(sides)]
    # Backwards in two turns of four: no side always follows the same one.
    return order[::-1] if turn % 4 > 1 else order


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
