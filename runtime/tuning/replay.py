"""Device time of a call, from replaying a CUDA graph that makes the call for each copy of a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime.calling.uncollected import uncollected
from sparseflow.runtime.robust import AGREE, settle
from sparseflow.runtime.tuning.layers import relative_error

Pool = Any
"""A memory pool that graphs share; the name of torch's type differs between versions."""

_cuda: Any = torch.cuda
"""Untyped, as torch's annotations are incomplete."""

_LEAD_CYCLES = 100_000
"""Cycles that the GPU waits before a replay, so that the launch isn't part of the measured time."""
_LEAD_CYCLES_A_CALL = 1_000

DISTURBED = 3
"""On a GPU that other processes use, this many times the rounds are needed for undisturbed ones."""

CALLS = 16
"""The calls in a graph, over which the few microseconds that it takes to start are spread."""


class Spoilt(Exception):  # noqa: N818 - ends the child, which has said what it has to say
    """CUDA can't be used any more in this process."""


class Replay:
    """A graph of calls on the current stream, which must not be the default stream.

    Args:
        call: computes the product with the copy of a given index. It first runs once outside the graph, and
            what it raises there is raised to the caller.
        copies: the number of copies; the graph calls each equally often.
        pool: the memory pool of graphs that are replayed in turns.
        calls: the least number of calls in the graph.

    Attributes:
        y: the result of the last call; ``forget`` drops it.

    Raises:
        Spoilt: the call ran, but could not be captured.
    """

    def __init__(self, call: Callable[[int], Tensor], copies: int, pool: Pool, calls: int = CALLS) -> None:
        call(0)
        torch.cuda.synchronize()
        self._calls = copies * -(-calls // copies)
        self._graph = torch.cuda.CUDAGraph()
        self._start, self._end = (_cuda.Event(enable_timing=True) for _ in range(2))
        try:
            # Worker threads may build plans meanwhile, which must not end the capture.
            with uncollected():
                self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                for turn in range(self._calls):
                    self.y: Tensor | None = call(turn % copies)
                self._graph.capture_end()
        except RuntimeError as error:
            raise Spoilt(f"can't be captured in a CUDA graph: {first_line(error)}") from None

    def error(self, expected: Tensor) -> float:
        """Fill the result with NaN, replay, and return the relative error; this warms the graph up."""
        assert self.y is not None
        self.y.fill_(float("nan"))
        self._graph.replay()
        return relative_error(self.y, expected)

    def forget(self) -> None:
        """Drop the result, so that other graphs of the pool can use its memory."""
        self.y = None

    def us(self) -> float:
        """Replay once; return the microseconds of one call."""
        _cuda._sleep(_LEAD_CYCLES + _LEAD_CYCLES_A_CALL * self._calls)
        self._start.record()
        self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return 1e3 * float(self._start.elapsed_time(self._end)) / self._calls


def in_turns(sides: Sequence[Replay], rounds: int, before: Callable[[int], None]) -> list[float]:
    """Return the microseconds of each side, replayed in turns in a rotating order, by `robust.settle`.

    Args:
        sides: what is compared.
        rounds: the most rounds, after one replay of each side that isn't counted; `DISTURBED` times as many
            if other processes use the GPU, so that times don't agree.
        before: called with the index of the side that is about to run.
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
    # Reversed in two turns of four, so that no side always follows the same other.
    return order[::-1] if turn % 4 > 1 else order


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for a report."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def alive() -> bool:
    """Return whether CUDA still works in this process; some errors are permanent."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
