"""Layers in fp8 with many rows of x beside dense fp8 and cuSPARSELt: `python benchmarks/bench_wide.py`.

Whole layers, their scaling of x included, in one process and in turn, by CUDA-graph replay over weights
that rotate past the L2 cache: dense fp8 scaled by rows and by one number, the own kernels in their fastest
variants (for many rows, and up to 64 rows for few), and the best tuned algorithm of cuSPARSELt. Of
28672×4096, which is a merged gate/up weight, the layer with its gate as well, for which torch.compile makes
the dense side's gate. Results are written after every shape.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure
import torch
import torch.nn.functional as F
from _fp8_layers import dense_layers, fastest, sparse_layer
from torch import Tensor

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice, Problem, find
from sparseflow.runtime.tuning import GpuMachine, lookup
from sparseflow.runtime.tuning.layers import Layer
from sparseflow.runtime.tuning.replay import in_turns

SHAPES = ["6144x4096", "4096x4096", "28672x4096", "4096x14336"]
ROWS = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
GATED = (28672, 4096)
MOST_FOR_FEW = 64
ROUNDS = 5

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here


def asked(m: int) -> float:
    """The least speed-up over the dense layer scaled by rows that issue 23 asks for."""
    return 1.4 if m <= MOST_FOR_FEW else 1.0 if m <= 512 else 1.25


def gate(y: Tensor) -> Tensor:
    """What follows a merged gate/up product."""
    left, right = y.chunk(2, -1)
    return F.silu(left) * right


def choices(n: int, k: int, m: int) -> list[Choice]:
    """Return the variants of the own kernels that are tried."""
    problem = Problem("float8_e4m3fn", n, k, "cuda:0", m, "2:4-fp8")
    names = ["wide", "skinny"] if m <= MOST_FOR_FEW else ["wide"]
    return [choice for name in names for choice in find(name).candidates(problem)]


def library_choice(n: int, k: int, m: int, machine: GpuMachine) -> Choice | None:
    """Return the best tuned algorithm of cuSPARSELt for the nearest M that has one."""
    points = sorted(lookup("float8_e4m3fn", n, k, machine), key=lambda point: abs(point.m - m))
    found = (c for point in points for c in point.candidates if c.backend == "cusparselt")
    best = next(found, None)
    return Choice("cusparselt", best.algorithm, best.split_k) if best else None


def cell(layer: Layer, m: int, gated: bool, library: Choice | None) -> dict[str, Any]:
    """Measure one layer at one M."""
    n, k = layer.dense[0].shape
    x, scales = torch.randn(m, k, device="cuda").bfloat16(), torch.rand(n, device="cuda") + 0.5
    pool, epilogue = torch.cuda.graph_pool_handle(), "silu_gated" if gated else "none"
    then: Callable[[Tensor], Tensor] = torch.compile(gate, dynamic=False) if gated else lambda y: y
    own = fastest(layer, x, scales, choices(n, k, m), pool, epilogue)
    if not own:
        raise RuntimeError("no variant of the kernel for many rows runs on this GPU")
    dense = dense_layers(layer, x, scales, pool, then)
    sides = [*dense, *(side for _, side in own)]
    if library is not None:
        sides.append(sparse_layer(layer, x, scales, library, pool, epilogue))
    for side in sides:
        side.forget()
    us = in_turns(sides, ROUNDS, lambda _: None)
    ours = min(range(len(own)), key=lambda i: us[2 + i])
    library_us = us[-1] if library else None
    best = sparse_layer(layer, x, scales, own[ours][0], pool, epilogue)
    exact = (x[:256].double() @ layer.dense[0].double().T * scales.double()).float()
    best.us()  # y is the replay's
    assert best.y is not None
    y = best.y[:256].double()
    expected = (gate(exact) if gated else exact).double()
    speedup = us[0] / us[2 + ours]
    return {
        "n": n,
        "k": k,
        "m": m,
        "gated": gated,
        "dense_by_rows_us": round(us[0], 2),
        "dense_us": round(min(us[:2]), 2),
        "ours_us": round(us[2 + ours], 2),
        "kernel": own[ours][0].kernel,
        "variant": own[ours][0].algorithm,
        "cusparselt_us": round(library_us, 2) if library_us else None,
        "speedup": round(speedup, 3),
        "speedup_over_best_dense": round(min(us[:2]) / us[2 + ours], 3),
        "over_cusparselt": round(library_us / us[2 + ours], 3) if library_us else None,
        # Both roundings of the operands to e4m3 are in it: some 3 %.
        "rel_err": float((y - expected).norm() / expected.norm()),
        "target": asked(m),
        "met": speedup >= asked(m),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="NxK")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="the M to measure")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no cell later")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    gpu.require()
    machine, end = GpuMachine.here(0), time.monotonic() + args.seconds
    rows: list[dict[str, Any]] = []
    head = _measure.meta(machine.gpu, machine=vars(machine))
    with torch.no_grad(), _CUDA.stream(_CUDA.Stream()):
        for n, k in (tuple(map(int, shape.split("x"))) for shape in args.shapes):
            layer = Layer.random(n, k, torch.float8_e4m3fn)
            for m in args.rows:
                library = library_choice(n, k, m, machine)
                for gated in (False, True) if (n, k) == GATED else (False,):
                    if time.monotonic() > end:
                        break
                    row = cell(layer, m, gated, library)
                    rows.append(row)
                    print(
                        f"{n}x{k}{' gated' if gated else ''} M={m}: dense by rows {row['dense_by_rows_us']}, "
                        f"best {row['dense_us']}, cuSPARSELt {row['cusparselt_us']}, "
                        f"{row['kernel']}@{row['variant']} {row['ours_us']} us, {row['speedup']}x",
                        flush=True,
                    )
            del layer
            torch.cuda.empty_cache()
            _measure.write(_measure.gpu_name("wide", machine.gpu), head, rows, args.results)
    print(f"{sum(row['met'] for row in rows)} of {len(rows)} cells reach what issue 23 asks for")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
