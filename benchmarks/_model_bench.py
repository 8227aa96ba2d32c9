"""What every part of bench_model.py runs with: the place, the clock, the rows, the sides to compare."""

from __future__ import annotations

import functools
import gc
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
from _gpus import a_turn
from torch import nn

import sparseflow as sf
from sparseflow.execution.opponent import opponent

BITS = ("bf16", "fp8")

Row = dict[str, Any]
Call = Callable[[], Any]


@dataclass
class Bench:
    """Where things run, what was asked for, and the rows so far.

    Attributes:
        batches: of the small models.
        bits: of the compute-bound models.
        account: whether to keep the kernels of their sides too.
    """

    place: _models.Place
    tiny: bool
    seconds: float
    name: str
    head: dict[str, Any]
    folder: Path
    batches: tuple[int, ...]
    bits: tuple[str, ...] = BITS
    account: bool = False
    rows: list[Row] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether this is a real run."""
        return self.place.device == "cuda"

    @property
    def options(self) -> dict[str, Any]:
        """Of sf.compile: a tiny run measures no policy."""
        return {"prune": "magnitude", "progress": False, **({"policy": "sparse"} if self.tiny else {})}

    def add(self, row: Row) -> None:
        """Keep and show a row, and write all of them.

        `target` is the least speed-up; `at_least` and `at_most` bound other columns.
        """
        least = {"speedup": row.get("target"), **row.get("at_least", {})}
        most = row.get("at_most", {})
        row["met"] = all(
            row[name] >= bound for name, bound in least.items() if bound and row.get(name)
        ) and all(row[name] <= bound for name, bound in most.items() if row[name] is not None)
        self.rows.append(row)
        _measure.write(self.name, self.head, self.rows, self.folder)
        shown = {key: value for key, value in row.items() if value is not None}
        print("  ".join(f"{key}={value}" for key, value in shown.items()), file=sys.stderr, flush=True)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def release(self) -> None:
        """Free what the last model took."""
        torch._dynamo.reset()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def in_turn(self, sides: Mapping[str, Call]) -> dict[str, float]:
        """Median milliseconds of one call of each side: bursts, in turn, the order rotating."""
        counts = {name: self._burst_length(side) for name, side in sides.items()}
        timers = {name: functools.partial(self._burst, side, counts[name]) for name, side in sides.items()}
        with a_turn():
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


def llama_4(bench: Bench) -> tuple[str, Any]:
    """Four layers of an 8B Llama, and what rows call them."""
    if bench.tiny:
        return "llama-tiny", _models.llama("tiny", bench.place)
    return "llama3-8b, 4 layers, vocabulary 16032", _models.llama("8b", bench.place, 4)


def by_torch(bench: Bench, model: nn.Module, mode: str | None) -> Any:
    """The model through torch.compile; as it is in a tiny run, as ours is."""
    return opponent(model, torch.device(bench.place.device), mode=mode)[1]


def pair(bench: Bench, model: nn.Module, mode: str | None, **options: Any) -> tuple[Any, sf.CompiledModel]:
    """The model with 2:4 weights through torch.compile, and through SparseFlow."""
    sf.prune(model, progress=False)
    compiled = sf.compile(model, mode=mode, **bench.options, **options)  # type: ignore[arg-type]  # checked there
    return by_torch(bench, model, mode), compiled


def bound(sides: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Call]:
    """The sides as calls without arguments."""
    return {name: functools.partial(side, **inputs) for name, side in sides.items()}


def compared(dense: torch.Tensor, ours: torch.Tensor) -> float:
    """The relative difference of two outputs."""
    one, other = dense.float(), ours.float()
    return float(f"{float((one - other).norm() / one.norm()):.2g}")


def first(output: Any) -> torch.Tensor:
    """The logits, or what an encoder gives."""
    found: torch.Tensor = output[0]
    return found.clone()


def row_of(sides: Mapping[str, float], ceiling: float | None, target: float | None) -> Row:
    """The measured columns of a row."""
    dense, ours = sides["dense"], sides["ours"]
    reached = None if ceiling is None else round(ceiling / ours, 3)
    return {
        **{f"{name}_ms": round(ms, 4) for name, ms in sides.items()},
        "speedup": round(dense / ours, 3),
        "ceiling_ms": None if ceiling is None else round(ceiling, 4),
        "ceiling_speedup": None if ceiling is None else round(dense / ceiling, 3),
        "of_ceiling": reached,
        "target": target,
    }
