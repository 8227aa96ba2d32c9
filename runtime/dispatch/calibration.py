"""Fills the machine's table with the layers that a model needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch.call import call_us
from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.measure import measure_layer, sparse_ways
from sparseflow.runtime.dispatch.measurement import MEASURED_M, Measurement
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.table import Table, warn
from sparseflow.support.arguments import Memory

# Called with the points done, the points in all, and what is being measured.
Progress = Callable[[int, int, str], None]

# A crowded machine stays crowded: one process measures a point once.
_MEASURED_HERE: set[Measurement] = set()


def calibrate(
    shapes: Iterable[tuple[int, int]],
    dtype: torch.dtype,
    *,
    progress: Progress | None = None,
    table: Table | None = None,
    memory: Memory = "auto",
) -> dict[tuple[int, int], Policy]:
    """The policy of each layer shape on this machine, measuring only what its table lacks.

    Measured shapes are saved one by one: an interrupted calibration is resumed by the next. Points measured
    while other processes kept the cores busy are reported with a ``DispatchTableWarning``, and measured
    again by the next process that needs them.

    Args:
        shapes: the layers' (N, K), in any order, repeats allowed.
        dtype: float32, bfloat16 or float16.
        progress: called with (points done, points in all, text) before and after each measured point.
        table: where measurements are kept; the machine's own by default.
        memory: whether packed layers keep their dense weight, as `choose` has it.

    Returns:
        A policy for each distinct shape, its measurements and speed-ups with it.

    Raises:
        ArgumentError: a size below 1 or another dtype.
    """
    table = Table() if table is None else table
    name = dtype_name(dtype)
    wanted = list(dict.fromkeys((int(n), int(k)) for n, k in shapes))
    missing = {shape: _missing(table, dtype, *shape) for shape in wanted}
    counter = _Counter(sum(map(len, missing.values())), progress)
    for (n, k), ms in missing.items():
        if ms:
            counter.show(f"{n}×{k} {name}")
            rows = measure_layer(n, k, dtype, ms, on_point=counter.advance)
            _MEASURED_HERE.update(rows)
            table.add(rows)
            table.save()
    layers = {(n, k): table.layer(name, n, k) for n, k in wanted}
    crowded = sum(row.crowded for rows in layers.values() for row in rows)
    if crowded:
        points = sum(map(len, layers.values()))
        warn(
            f"{crowded} of {points} points were measured while other processes kept the cores busy: the "
            "choice between sparse and dense may be off; measure again on an idle machine"
        )
    return {shape: choose(rows, memory, call_us=call_us()) for shape, rows in layers.items()}


def _missing(table: Table, dtype: torch.dtype, n: int, k: int) -> list[int]:
    """The M's of which the table has no time, or none of some kernel that was registered since."""
    rows = table.layer(dtype_name(dtype), n, k)
    known = {row.m: set(row.ways()) for row in rows if not row.crowded or row in _MEASURED_HERE}
    return [m for m in MEASURED_M if m not in known or not known[m].issuperset(sparse_ways(n, k, dtype, m))]


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.text = 0, total, ""
        self.progress = progress

    def show(self, text: str) -> None:
        self.text = text
        if self.progress:
            self.progress(self.done, self.total, text)

    def advance(self, m: int) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total, f"{self.text}, M={m}")
