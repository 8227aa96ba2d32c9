"""What the end of a product in fp8 costs: `python benchmarks/bench_fp8_ends.py`.

The products of the models of `_model_compute.py`, of rows that are quantised already: torch's dense product
scaled by one number and by rows, cuSPARSELt's with and without the kernel that scales its result, and our
kernel for many rows without an activation and with each; both also with GELU and the result's quantising. In
microseconds, all in turn, as CUDA graphs over weights past the cache. Which algorithm and variant run is what
the GPU's table has as the fastest at the nearest M.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _measure
import _sides
import torch
from torch import Tensor

from sparseflow.runtime import fp8, gpu
from sparseflow.runtime.fp8_between import linear_fp8_requantized
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning import GpuMachine
from sparseflow.runtime.tuning.gpu_table import lookup
from sparseflow.runtime.tuning.layers import Layer

PRODUCTS = {
    "flux": [(n, k, 4608) for n, k in ((9216, 3072), (3072, 3072), (12288, 3072), (3072, 12288))],
    "pixart": [(n, k, 8192) for n, k in ((3456, 1152), (1152, 1152), (4608, 1152), (1152, 4608))],
    "bert-large": [(n, k, 16384) for n, k in ((3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096))],
}
ENDS = ("none", "relu", "gelu", "gelu_tanh", "silu")
E4M3 = torch.float8_e4m3fn


def row(n: int, k: int, m: int, seconds: float) -> dict[str, Any]:
    """Times of a product by side."""
    layer = Layer.random(n, k, E4M3)
    x8, of_x = torch.randn(m, k, device="cuda").to(E4M3), torch.rand(m, 1, device="cuda") + 0.5
    of_w = torch.rand(n, device="cuda") + 0.5
    chosen = fastest(n, k, m)
    sides: dict[str, Callable[[int], Tensor]] = {
        "dense_by_one": functools.partial(_dense, layer, x8, of_x[0, 0], of_w[0]),
        "dense_by_rows": functools.partial(_dense, layer, x8, of_x, of_w[None]),
    }
    for name, choice in chosen.items():
        run = functools.partial(_layer, layer, x8, of_x, of_w, choice)
        ends = ENDS if name == "wide" else ENDS[:1]
        sides |= {f"{name}_{end}": functools.partial(run, end) for end in ends}
        sides[f"{name}_requantized"] = functools.partial(_requantized, layer, x8, of_x, of_w, choice)
    if "cusparselt" in chosen:
        sides["cusparselt_raw"] = functools.partial(_raw, layer, x8, chosen["cusparselt"])
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    with torch.no_grad(), cuda.stream(cuda.Stream()):
        us = _sides.device_us(sides, {}, layer.copies, seconds)
    runs = {name: str(choice) for name, choice in chosen.items()}
    return {"N": n, "K": k, "M": m, **runs, **{f"{name}_us": round(time, 2) for name, time in us.items()}}


def fastest(n: int, k: int, m: int) -> dict[str, Choice]:
    """The fastest tuned candidate of each kernel for many rows, at the M nearest to this one."""
    points = lookup("float8_e4m3fn", n, k, GpuMachine.here(0))
    near = sorted(points, key=lambda point: max(point.m / m, m / point.m))
    found: dict[str, Choice] = {}
    for candidate in (candidate for point in near for candidate in point.candidates):
        if candidate.backend in ("wide", "cusparselt"):
            found.setdefault(candidate.backend, Choice(*candidate.key))
    return found


def _dense(layer: Layer, x8: Tensor, of_x: Tensor, of_w: Tensor, copy: int) -> Tensor:
    return torch._scaled_mm(
        x8, layer.dense[copy].t(), scale_a=of_x, scale_b=of_w, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _layer(
    layer: Layer, x8: Tensor, of_x: Tensor, of_w: Tensor, choice: Choice, end: str, copy: int
) -> Tensor:
    w, policy = layer.packed[copy], [1, choice.code]
    parts = (w.values, w.positions, of_w, None, None, w.in_features, end)
    y: Tensor = fp8.linear_fp8_quantized(x8, of_x, *parts, torch.bfloat16, policy)
    return y


def _requantized(layer: Layer, x8: Tensor, of_x: Tensor, of_w: Tensor, choice: Choice, copy: int) -> Tensor:
    w, policy = layer.packed[copy], [1, choice.code]
    parts = (w.values, w.positions, of_w, None, w.in_features, "gelu_tanh")
    y: Tensor = linear_fp8_requantized(x8, of_x, *parts, torch.bfloat16, policy)[0]
    return y


def _raw(layer: Layer, x8: Tensor, choice: Choice, copy: int) -> Tensor:
    w = layer.packed[copy]
    y: Tensor = fp8.product_fp8(x8, w.values, w.positions, w.in_features, [1, choice.code])
    return y


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PRODUCTS), help="which models: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring for each product")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    gpu.require()
    torch.manual_seed(0)
    machine = GpuMachine.here(0)
    head = _measure.meta(machine.gpu, machine=vars(machine))
    rows: list[dict[str, Any]] = []
    for part in args.parts.split(","):
        for n, k, m in PRODUCTS[part]:
            rows.append(row(n, k, m, args.seconds))
            print(rows[-1], file=sys.stderr, flush=True)
            _measure.write(_measure.gpu_name("fp8_ends", machine.gpu), head, rows, args.results)
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
