"""Fills the machine's table with the layers that a model needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from sparseflow.runtime.dispatch.measure import measure_layer
from sparseflow.runtime.dispatch.measurement import MEASURED_M
from sparseflow.runtime.dispatch.policy import Policy, choose
from sparseflow.runtime.dispatch.table import Table

# Called with the points done, the points in all, and what is being measured.
Progress = Callable[[int, int, str], None]


def calibrate(
    shapes: Iterable[tuple[int, int]],
    dtype: torch.dtype,
    *,
    progress: Progress | None = None,
    table: Table | None = None,
) -> dict[tuple[int, int], Policy]:
    """The policy of each layer shape on this machine, measuring only what its table lacks.

    Measured shapes are saved one by one: an interrupted calibration is resumed by the next.

    Args:
        shapes: the layers' (N, K), in any order, repeats allowed.
        dtype: float32, bfloat16 or float16.
        progress: called with (points done, points in all, text) before and after each measured point.
        table: where measurements are kept; the machine's own by default.

    Returns:
        A policy for each distinct shape, its measurements and speed-ups with it.

    Raises:
        ArgumentError: a size below 1 or another dtype.
    """
    table = Table() if table is None else table
    name = str(dtype).removeprefix("torch.")
    wanted = list(dict.fromkeys((int(n), int(k)) for n, k in shapes))
    missing = {shape: _missing(table, name, *shape) for shape in wanted}
    counter = _Counter(sum(map(len, missing.values())), progress)
    for (n, k), ms in missing.items():
        if ms:
            counter.show(f"{n}×{k} {name}")
            table.add(measure_layer(n, k, dtype, ms, on_point=counter.advance))
            table.save()
    return {(n, k): choose(table.layer(name, n, k)) for n, k in wanted}


def _missing(table: Table, dtype: str, n: int, k: int) -> list[int]:
    known = {row.m for row in table.layer(dtype, n, k)}
    return [m for m in MEASURED_M if m not in known]


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
