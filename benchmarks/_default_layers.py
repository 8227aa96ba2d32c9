"""The parts of bench_default.py about single layers on a GPU: device time, CUDA graphs replayed in turns."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import _models
import _sides
import torch
import torch.nn.functional as F
from _default_models import NEVER_SLOWER
from _model_bench import Bench, Row
from _weights import copies_of, packed, pruned

from sparseflow.compiler.options import CompileOptions
from sparseflow.compiler.shapes import linear_shapes
from sparseflow.runtime import gpu, ops
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.products import which
from sparseflow.runtime.tuning import gpu_table
from sparseflow.support.arguments import DEFAULT_SKIP

Shape = tuple[int, int]
ROWS = tuple(1 << i for i in range(14))
LLAMA_8B: tuple[Shape, ...] = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
MOST_OVER_FULL = 1.05
_SECONDS = 0.1
_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here


def model_shapes(dtype: torch.dtype) -> list[Shape]:
    """The distinct layers of the small models, merged as compiling merges them; one block has them all."""
    place, found = _models.Place("meta", dtype), list(LLAMA_8B)
    for make, inputs in _models.small(place, tiny=False, most_layers=1).values():
        for shapes in linear_shapes(make(), None, inputs(2), DEFAULT_SKIP).values():
            found += [shape for shape in shapes if shape not in found]
    return found


class Layer:
    """Copies of a 2:4 weight, packed and dense, that outgrow the cache."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        self.k, self.dtype = shape[1], dtype
        self.copies = copies_of(*shape, dtype.itemsize)
        self.dense = [pruned(*shape, dtype) for _ in range(self.copies)]
        self.packed = [packed(weight) for weight in self.dense]

    def side(self, x: torch.Tensor, found: Policy | str) -> _sides.Call:
        """The layer as a compiled model has it: a reason keeps it dense."""
        if isinstance(found, str):
            return lambda copy: F.linear(x, self.dense[copy])
        codes, keeps = found.to_ints(), found.keeps_dense
        gpu.prepare(self.packed[0], [len(x)], codes)

        def call(copy: int) -> torch.Tensor:
            w = self.packed[copy]
            dense = self.dense[copy] if keeps else None
            y: torch.Tensor = ops.linear(x, w.values, w.positions, None, None, self.k, "none", codes, dense)
            return y

        return call

    def us(self, m: int, found: Mapping[str, Policy | str]) -> dict[str, float]:
        """Microseconds of the dense layer, and of the layer by each policy, for M rows."""
        x = torch.randn(m, self.k, device="cuda").to(self.dtype)
        sides: dict[str, _sides.Call] = {"dense": lambda copy: F.linear(x, self.dense[copy])}
        sides |= {name: self.side(x, policy) for name, policy in found.items()}
        return _sides.device_us(sides, {}, self.copies, _SECONDS)


def policies(shapes: list[Shape], dtype: torch.dtype, **options: Any) -> dict[Shape, Policy | str]:
    """What `sf.compile` without options would choose, or with some."""
    chosen = {"memory": CompileOptions.memory, "tune": CompileOptions.tune, **options}
    return which.policies(shapes, dtype, torch.device("cuda", 0), **chosen)


def layers(bench: Bench) -> None:
    """Every distinct layer and M: by what is chosen by default, over dense."""
    dtype = bench.place.dtype
    shapes = model_shapes(dtype)
    found = policies(shapes, dtype)
    with _own_stream():
        for shape in shapes:
            layer = Layer(shape, dtype)
            for m in ROWS:
                us = layer.us(m, {"ours": found[shape]})
                row = {**_head(shape, m, dtype), **_figures(us), **_runs(found[shape], m)}
                bench.add({**row, "speedup": round(us["dense"] / us["ours"], 3), "target": NEVER_SLOWER})
            _release(layer)


def quick_against_full(bench: Bench) -> None:
    """What quick tuning chose beside what full tuning did; no table is known before, none is kept."""
    dtype, by, took = bench.place.dtype, dict[str, dict[Shape, Policy | str]](), dict[str, float]()
    for tune in ("quick", "full"):
        with _no_tables():
            start = time.perf_counter()
            by[tune] = policies(list(LLAMA_8B), dtype, tune=tune)
            took[f"{tune}_tuning_s"] = round(time.perf_counter() - start, 1)
    ratios = []
    with _own_stream():
        for shape in LLAMA_8B:
            layer = Layer(shape, dtype)
            for m in ROWS:
                us = layer.us(m, {tune: found[shape] for tune, found in by.items()})
                ratios.append(us["quick"] / us["full"])
                bench.add({**_head(shape, m, dtype), **_figures(us), "target": None})
            _release(layer)
    over = round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 4)
    bench.add({"what": "quick over full tuning", "points": len(ratios), "quick_over_full": over, **took,
               "at_most": {"quick_over_full": MOST_OVER_FULL}})  # fmt: skip


def _head(shape: Shape, m: int, dtype: torch.dtype) -> Row:
    return {"N": shape[0], "K": shape[1], "M": m, "dtype": str(dtype).removeprefix("torch.")}


def _figures(us: Mapping[str, float]) -> Row:
    return {f"{name}_us": round(value, 2) for name, value in us.items()}


def _runs(found: Policy | str, m: int) -> Row:
    if isinstance(found, str):
        return {"backend": "dense", "reason": found}
    return {"backend": str(found.choice(m))}


def _release(layer: Layer) -> None:
    layer.dense.clear()
    layer.packed.clear()
    gpu.reset()
    torch.cuda.empty_cache()


@contextlib.contextmanager
def _own_stream() -> Iterator[None]:
    """The default stream can't be captured."""
    with torch.no_grad(), _CUDA.stream(_CUDA.Stream()):
        yield


@contextlib.contextmanager
def _no_tables() -> Iterator[None]:
    """An empty cache, and nothing shipped, for as long as the block runs."""
    shipped, before = gpu_table.SHIPPED, os.environ["SPARSEFLOW_CACHE_DIR"]
    with tempfile.TemporaryDirectory() as folder:
        gpu_table.SHIPPED = Path(folder, "shipped")
        os.environ["SPARSEFLOW_CACHE_DIR"] = folder
        try:
            yield
        finally:
            gpu_table.SHIPPED = shipped
            os.environ["SPARSEFLOW_CACHE_DIR"] = before
