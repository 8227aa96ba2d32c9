"""Measuring a layer shape on a CPU: sparse kernels and decompression against ``F.linear``.

All sides run in turn in one process, with the same threads, until their times agree
(`sparseflow.runtime.robust`). Their weights rotate through copies that exceed the last-level cache, as the
layers of a model do.

At every barrier a team of threads waits for the thread whose core another process keeps busy, and no
statistic recovers the kernels' times from such measurements. On a crowded machine, therefore, only as many
threads run as have a core to themselves; a single thread is timed by its own processor time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import checks
from sparseflow.runtime.dispatch.cpu_identity import last_level_cache_bytes
from sparseflow.runtime.dispatch.doubt import better, doubtful
from sparseflow.runtime.dispatch.measurement import DENSE, MEASURED_M, Measurement
from sparseflow.runtime.dispatch.processor_load import LoadMeter
from sparseflow.runtime.formats import Format, find
from sparseflow.runtime.kernels import Choice, Problem, sparse_kernels
from sparseflow.runtime.pattern import Pattern
from sparseflow.runtime.robust import Settled, settle
from sparseflow.runtime.thread_count import thread_count
from sparseflow.runtime.timing import Stopwatch, Turns, once, once_on_this_thread

MAX_ROWS = 4096
# For many rows of x, preparing x takes time too, which fewer rows of W would overstate.
MIN_ROWS = 2048
# Dense bytes of a weight; larger ones are measured on a slice of their rows.
MAX_WEIGHT_BYTES = 96 << 20
# Multiplications in a call; larger products are measured on fewer rows of W, at least MIN_ROWS.
MAX_WORK = 1 << 33
MAX_COPIES = 64
MAX_REPS = 400
# The limit for a point whose times don't agree; sides of slow points still run a few times.
SECONDS_A_POINT = 0.25
# Times that agree within a moment prove little; this is a few time slices of the scheduler.
LEAST_SECONDS = 0.02

# Runs the layer in one way, in the round with the given number.
_Side = Callable[[int], Tensor]


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Copies of one random pruned weight, dense and packed, which together exceed the last-level cache."""

    stored: Format
    dense: Sequence[Tensor]
    packed: Sequence[tuple[Tensor, ...]]

    @classmethod
    def random(cls, rows: int, k: int, dtype: torch.dtype, format: str) -> _Weights:
        stored = find(format)
        weight = Pattern.of(stored.pattern).prune(torch.randn(rows, k, dtype=torch.float32).to(dtype))
        parts = stored.pack(weight)
        # Each side must evict its own copies, so the smaller, packed form determines their number.
        needed = 2 * last_level_cache_bytes() // max(1, sum(part.nbytes for part in parts)) + 1
        copies = max(2, min(MAX_COPIES, needed))
        return cls(
            stored,
            [weight.clone() for _ in range(copies)],
            [tuple(part.clone() for part in parts) for _ in range(copies)],
        )

    def sides(self, x: Tensor, rows: int, sparse: Sequence[Choice]) -> list[_Side]:
        """Return dense, decompress-and-multiply and each sparse way, on the first ``rows`` rows of a copy."""
        copies, k = len(self.dense), x.shape[1]

        def packed(turn: int, choice: Choice) -> Tensor:
            parts = (part[:rows] for part in self.packed[turn % copies])
            return self.stored.op(x, *parts, None, None, k, "none", [1, choice.code])

        return [
            lambda turn: F.linear(x, self.dense[turn % copies][:rows]),
            *(functools.partial(packed, choice=choice) for choice in (DENSE, *sparse)),
        ]


def sparse_ways(n: int, k: int, dtype: torch.dtype, m: int, format: str = "2:4") -> tuple[Choice, ...]:
    """Return every sparse way in which this machine's CPU can run a layer ``[N, K]`` with m rows of x."""
    problem = Problem(checks.dtype_name(dtype), n, k, m=m, format=format)
    able = (kernel for kernel in sparse_kernels("cpu") if kernel.can_implement(problem) is None)
    return tuple(choice for kernel in able for choice in kernel.candidates(problem))


def measure_layer(
    n: int,
    k: int,
    dtype: torch.dtype,
    ms: Sequence[int] = MEASURED_M,
    *,
    on_point: Callable[[int], None] = lambda m: None,
    known: Sequence[Measurement] = (),
    meter: LoadMeter | None = None,
    format: str = "2:4",
) -> list[Measurement]:
    """Measure a layer ``[N, K]`` at each M; at the end, measure doubtful points once more.

    A layer too large to measure whole is measured on its first rows, and the times are scaled: from some
    thousand rows on, the time of every side is linear in N. ``Measurement.rows`` records the rows.

    Args:
        n: out features, at least 1.
        k: in features, at least 1.
        dtype: float32, bfloat16 or float16.
        ms: the M's.
        on_point: called with M after each point.
        known: earlier measurements of the layer; for a point in ``ms`` the better measurement is returned.
        meter: watches other processes; it has been running since before the first point.
        format: the name of the packed weight's format.

    Raises:
        ArgumentError: a size is below 1, or the dtype is another one.
    """
    if min(n, k, *ms) < 1 or dtype not in checks.NATIVE_DTYPES:
        raise ArgumentError(
            "measure_layer",
            f"needs sizes from 1 and a supported dtype, got N={n}, K={k}, M={list(ms)}, {dtype}",
        )
    meter, threads = meter or LoadMeter(), torch.get_num_threads()
    size = max(MIN_ROWS, min(MAX_ROWS, MAX_WEIGHT_BYTES // (k * dtype.itemsize)))
    rows = {row.m: row for row in known}
    with torch.inference_mode():
        bench = _Bench(_Weights.random(min(n, size), k, dtype, format), n, meter)
        for m in ms:
            rows[m] = _better(rows.get(m), bench.measure(m))
            on_point(m)
        again = doubtful([rows[m] for m in sorted(rows)], crowd=meter.crowded(threads))
        for m in (m for m in again if m in ms):
            rows[m] = better(rows[m], bench.measure(m))
    return [rows[m] for m in ms]


def _better(old: Measurement | None, new: Measurement) -> Measurement:
    return better(old, new) if old else new


@dataclasses.dataclass(frozen=True)
class _Bench:
    """The measurements of one layer.

    Attributes:
        weights: copies of the layer, or of its first rows.
        n: out features of the whole layer.
        meter: watches the other processes.
    """

    weights: _Weights
    n: int
    meter: LoadMeter

    def measure(self, m: int) -> Measurement:
        """Measure the layer with m rows of x, with all threads or those that have a core."""
        weight, wanted = self.weights.dense[0], torch.get_num_threads()
        settled, threads = self._settle_where_free(m)
        scale = 1e6 * self.n / self.rows(m) * threads / wanted
        dense_us, unpacked_us, *us = (scale * time for time in settled.times)
        sparse = sparse_ways(self.n, weight.shape[1], weight.dtype, m, self.weights.stored.name)
        return Measurement(
            checks.dtype_name(weight.dtype),
            self.n,
            weight.shape[1],
            m,
            dense_us,
            unpacked_us,
            tuple(zip(map(str, sparse), us, strict=True)),
            self.rows(m),
            settled.rounds,
            threads < wanted or self.meter.crowded(wanted),
            threads,
            settled.spread,
        )

    def _settle_where_free(self, m: int) -> tuple[Settled, int]:
        """Return the times and the number of threads; repeat once if a core was taken meanwhile."""
        wanted = torch.get_num_threads()
        before = self.meter.free(wanted)
        settled = self._settle(m, before)
        after = self.meter.free(wanted)
        return (settled, before) if after >= before else (self._settle(m, after), after)

    def rows(self, m: int) -> int:
        """Return how many rows of W are measured for m rows of x."""
        most, k = self.weights.dense[0].shape
        return int(min(most, max(MIN_ROWS, MAX_WORK // (m * k))))

    def _settle(self, m: int, threads: int) -> Settled:
        weight = self.weights.dense[0]
        k = weight.shape[1]
        x = torch.randn(m, k, dtype=torch.float32).to(weight.dtype)
        ways = sparse_ways(self.n, k, weight.dtype, m, self.weights.stored.name)
        sides = self.weights.sides(x, self.rows(m), ways)
        with thread_count(threads):
            turns = Turns(sides, stopwatch(threads))
            return settle(turns, most=MAX_REPS, enough=LEAST_SECONDS, limit=SECONDS_A_POINT)


def stopwatch(threads: int) -> Stopwatch:
    """Return what times a call with a number of threads: a single one by its own processor time."""
    return once_on_this_thread if threads == 1 else once
