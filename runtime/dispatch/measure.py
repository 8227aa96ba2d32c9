"""Measures one layer shape: the sparse kernels and the decompressing path against ``F.linear``.

All sides run in turn within one loop, in one process, with the same threads, over weights that rotate past
the last-level cache, as the layers of a model do. The figure is the lower
quartile: other processes only ever add time, and a table that is kept should not remember them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import checks, ops, pattern
from sparseflow.runtime.dispatch.load import LoadMeter
from sparseflow.runtime.dispatch.machine import last_level_cache_bytes
from sparseflow.runtime.dispatch.measurement import DENSE, MEASURED_M, Measurement
from sparseflow.runtime.kernels import Choice, Problem, sparse_kernels
from sparseflow.runtime.timing import interleaved

MAX_ROWS = 4096
# At many rows of x the kernels' work on x alone counts, which fewer rows of W would not bear.
MIN_ROWS = 2048
# Dense bytes of one weight: larger ones are measured on a slice of their rows.
MAX_WEIGHT_BYTES = 96 << 20
# Multiplications of one call; above it fewer rows are measured, MIN_ROWS at least.
MAX_WORK = 1 << 33
MAX_COPIES = 64
MIN_REPS, MAX_REPS = 2, 30
# About: each side of a slow point still runs MIN_REPS times.
SECONDS_A_POINT = 0.25

# Runs one way of computing the layer, in its n-th turn.
_Side = Callable[[int], Tensor]


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Copies of one random pruned weight, dense and packed, that together exceed the last-level cache."""

    dense: Sequence[Tensor]
    packed: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def random(cls, rows: int, k: int, dtype: torch.dtype) -> _Weights:
        weight = pattern.prune_24(torch.randn(rows, k, dtype=torch.float32).to(dtype))
        values, positions = ops.pack_2_4(weight)
        # Each side evicts its own copies: the smaller, packed form decides how many that takes.
        needed = 2 * last_level_cache_bytes() // max(1, values.nbytes + positions.nbytes) + 1
        copies = max(2, min(MAX_COPIES, needed))
        return cls(
            [weight.clone() for _ in range(copies)],
            [(values.clone(), positions.clone()) for _ in range(copies)],
        )

    def sides(self, x: Tensor, rows: int, sparse: Sequence[Choice]) -> list[_Side]:
        """Dense, decompress-and-multiply, and each sparse way, on the first ``rows`` rows of a copy."""
        copies, k = len(self.dense), x.shape[1]

        def packed(turn: int, choice: Choice) -> Tensor:
            values, positions = self.packed[turn % copies]
            policy = [1, choice.code]
            y: Tensor = ops.linear(x, values[:rows], positions[:rows], None, None, k, "none", policy)
            return y

        return [
            lambda turn: F.linear(x, self.dense[turn % copies][:rows]),
            *(functools.partial(packed, choice=choice) for choice in (DENSE, *sparse)),
        ]


def sparse_ways(n: int, k: int, dtype: torch.dtype, m: int) -> tuple[Choice, ...]:
    """Every sparse way in which this machine's CPU can run a layer ``[N, K]`` with m rows."""
    problem = Problem(checks.dtype_name(dtype), n, k, m=m)
    able = (kernel for kernel in sparse_kernels("cpu") if kernel.can_implement(problem) is None)
    return tuple(choice for kernel in able for choice in kernel.candidates(problem))


def measure_layer(
    n: int,
    k: int,
    dtype: torch.dtype,
    ms: Sequence[int] = MEASURED_M,
    *,
    on_point: Callable[[int], None] = lambda m: None,
) -> list[Measurement]:
    """Measure a layer ``[N, K]`` at each M.

    A layer too large to measure whole is measured on its first rows and the times scaled: the cost of all
    sides is linear in N from some thousand rows on. ``Measurement.rows`` records it.

    Args:
        n: out features, at least 1.
        k: in features, at least 1.
        dtype: float32, bfloat16 or float16.
        ms: the M's.
        on_point: called with M after each point.

    Raises:
        ArgumentError: a size below 1 or another dtype.
    """
    if min(n, k, *ms) < 1 or dtype not in checks.NATIVE_DTYPES:
        raise ArgumentError(
            "measure_layer",
            f"needs sizes from 1 and a supported dtype, got N={n}, K={k}, M={list(ms)}, {dtype}",
        )
    size = max(MIN_ROWS, min(MAX_ROWS, MAX_WEIGHT_BYTES // (k * dtype.itemsize)))
    results = []
    with torch.inference_mode():
        weights = _Weights.random(min(n, size), k, dtype)
        for m in ms:
            rows = min(n, size, max(MIN_ROWS, MAX_WORK // (m * k)))
            results.append(_measure_point(weights, n, k, m, rows))
            on_point(m)
    return results


def _measure_point(weights: _Weights, n: int, k: int, m: int, rows: int) -> Measurement:
    dtype = weights.dense[0].dtype
    x = torch.randn(m, k, dtype=torch.float32).to(dtype)
    sparse = sparse_ways(n, k, dtype, m)
    meter = LoadMeter()
    sides = weights.sides(x, rows, sparse)
    times = interleaved(sides, seconds=SECONDS_A_POINT, least=MIN_REPS, most=MAX_REPS)
    crowded = meter.crowded(torch.get_num_threads())
    dense_us, unpacked_us, *us = (1e6 * n / rows * _lower_quartile(side) for side in times)
    by_way = tuple(zip(map(str, sparse), us, strict=True))
    name = checks.dtype_name(dtype)
    return Measurement(name, n, k, m, dense_us, unpacked_us, by_way, rows, len(times[0]), crowded)


def _lower_quartile(times: Sequence[float]) -> float:
    return sorted(times)[len(times) // 4]
