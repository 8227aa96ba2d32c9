"""What every part of bench_model.py runs with: the place, the clock and the rows."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _measure
import _models
import _sides
import torch

Row = dict[str, Any]
Call = Callable[[], Any]


@dataclass
class Bench:
    """Where things run, what was asked for, and the rows so far."""

    place: _models.Place
    tiny: bool
    seconds: float
    name: str
    head: dict[str, Any]
    folder: Path
    rows: list[Row] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether this is a real run."""
        return self.place.device == "cuda"

    def add(self, row: Row) -> None:
        """Keep and show a row, and write all of them."""
        row["met"] = row.get("target") is None or row["speedup"] >= row["target"]
        self.rows.append(row)
        _measure.write(self.name, self.head, self.rows, self.folder)
        shown = {key: value for key, value in row.items() if value is not None}
        print("  ".join(f"{key}={value}" for key, value in shown.items()), file=sys.stderr, flush=True)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def in_turn(self, sides: Mapping[str, Call]) -> dict[str, float]:
        """Median milliseconds of one call of each side: bursts, in turn, the order rotating."""
        counts = {name: self._burst_length(side) for name, side in sides.items()}
        timers = {name: functools.partial(self._burst, side, counts[name]) for name, side in sides.items()}
        return _sides.in_turns(timers, self.seconds, most=40)

    def _burst_length(self, call: Call) -> int:
        for _ in range(4):  # compiles, and records CUDA graphs
            call()
        return max(1, min(50, int(30 / self._burst(call, 3))))

    def _burst(self, call: Call, count: int) -> float:
        self.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        self.synchronize()
        return (time.perf_counter() - start) * 1e3 / count
