"""Calibration: filling the CPU's table with the layers that a model needs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch.call import call_us
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning, Table
from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.doubt import doubtful
from sparseflow.runtime.dispatch.measure_cpu import measure_layer, sparse_ways
from sparseflow.runtime.dispatch.measurement import MEASURED_M, Measurement
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.processor_load import WINDOW, LoadMeter
from sparseflow.support.arguments import Memory
from sparseflow.support.user_warnings import warn

Progress = Callable[[int, int, str], None]
"""Called with the points done, the points in all, and what is being measured."""

_MEASURED_HERE: set[Measurement] = set()
"""The measurements of this process, which doesn't repeat doubtful ones; the next process does."""


def calibrate(
    shapes: Iterable[tuple[int, int]],
    dtype: torch.dtype,
    *,
    progress: Progress | None = None,
    table: Table | None = None,
    memory: Memory = "auto",
    format: str = "2:4",
) -> dict[tuple[int, int], Policy]:
    """Return the policy of each layer shape on this machine, measuring only what its table lacks.

    Every measured shape is saved at once, so that an interrupted calibration can be resumed. Points whose
    times don't agree, or don't fit those of their neighbours, are measured again after the others. A
    ``DispatchTableWarning`` reports points that were measured while other processes kept cores busy; the next
    process that needs them and finds the machine idle measures them again.

    Args:
        shapes: the layers' (N, K), in any order; a shape may repeat.
        dtype: float32, bfloat16 or float16.
        progress: called with (points done, points in all, text) before and after each measured point.
        table: where measurements are kept; the machine's own table by default.
        memory: whether packed layers keep their dense weight, as in `choose`.
        format: the name of the packed weights' format.

    Returns:
        A policy for each distinct shape, with its measurements and speed-ups.

    Raises:
        ArgumentError: a size is below 1, or the dtype is another one.
    """
    table = Table(format=format) if table is None else table
    name = dtype_name(dtype)
    wanted = list(dict.fromkeys((int(n), int(k)) for n, k in shapes))
    meter = LoadMeter()
    crowd = _still_crowded([row for shape in wanted for row in table.layer(name, *shape)], meter)
    missing = {shape: _missing(table, dtype, *shape, crowd, format) for shape in wanted}
    bench = _Calibration(table, dtype, format, meter, _Counter(sum(map(len, missing.values())), progress))
    for shape, ms in missing.items():
        bench.measure(shape, ms)
    for shape, ms in missing.items():
        bench.again(shape, ms)
    layers = {(n, k): table.layer(name, n, k) for n, k in wanted}
    _warn([row for rows in layers.values() for row in rows])
    return {shape: choose(rows, memory, call_us=call_us()) for shape, rows in layers.items()}


def forget() -> None:
    """Measure doubtful points again in this process, as another process would."""
    _MEASURED_HERE.clear()


def _still_crowded(rows: Iterable[Measurement], meter: LoadMeter) -> bool:
    """Return whether points that another process measured in a crowd would meet one again now."""
    if not any(row.crowded and row not in _MEASURED_HERE for row in rows):
        return False
    time.sleep(WINDOW)
    return meter.crowded(torch.get_num_threads())


def _missing(table: Table, dtype: torch.dtype, n: int, k: int, crowd: bool, format: str) -> list[int]:
    """Return the M's at which some kernel has no time, and those that deserve another measurement."""
    rows = table.layer(dtype_name(dtype), n, k)
    known = {row.m: set(row.ways()) for row in rows}
    again = set(doubtful(rows, crowd=crowd)) - {row.m for row in rows if row in _MEASURED_HERE}
    return [
        m
        for m in MEASURED_M
        if m in again or m not in known or not known[m].issuperset(sparse_ways(n, k, dtype, m, format))
    ]


def _warn(rows: Sequence[Measurement]) -> None:
    crowded = sum(row.crowded for row in rows)
    if crowded:
        warn(
            f"{crowded} of {len(rows)} points were measured while other processes kept cores busy, with the "
            "threads that had a core: the choice between sparse and dense may be off; the next process that "
            "finds the machine idle measures them again",
            DispatchTableWarning,
        )


@dataclasses.dataclass(frozen=True)
class _Calibration:
    table: Table
    dtype: torch.dtype
    format: str
    meter: LoadMeter
    counter: _Counter

    def measure(self, shape: tuple[int, int], ms: Sequence[int]) -> None:
        """Measure points of a layer and save them."""
        if not ms:
            return
        n, k = shape
        name = dtype_name(self.dtype)
        self.counter.show(f"{n}×{k} {name}")
        rows = measure_layer(
            n,
            k,
            self.dtype,
            ms,
            on_point=self.counter.advance,
            known=self.table.layer(name, n, k),
            meter=self.meter,
            format=self.format,
        )
        _MEASURED_HERE.update(rows)
        self.table.add(rows)
        self.table.save()

    def again(self, shape: tuple[int, int], ms: Sequence[int]) -> None:
        """Measure doubtful points among these again."""
        rows = self.table.layer(dtype_name(self.dtype), *shape)
        crowd = self.meter.crowded(torch.get_num_threads())
        again = [m for m in doubtful(rows, crowd=crowd) if m in ms]
        self.counter.total += len(again)
        self.measure(shape, again)


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
