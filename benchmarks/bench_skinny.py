"""The own kernel for few rows beside dense and cuSPARSELt: `python benchmarks/bench_skinny.py`.

For each cell, in one process and in turn, by CUDA-graph replay over weights that rotate past the L2 cache:
dense products (each BLAS library that torch has), the best tuned variant of the kernel, and the best tuned
algorithm of cuSPARSELt; in fp8 whole layers (_fp8_layers.py). The bandwidth is what the kernel must move
(kept values, places, x and y) over its time, and as a share of the bandwidth of a large copy, measured in the
same process.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import _measure
import torch
from _fp8_layers import fp8_row

from sparseflow.runtime import gpu, ops
from sparseflow.runtime.tuning import GpuMachine, dense_opponents, lookup
from sparseflow.runtime.tuning.layers import Layer, inputs, reference
from sparseflow.runtime.tuning.point import Candidate
from sparseflow.runtime.tuning.replay import Replay, in_turns

ROWS = [1, 2, 4, 8, 16, 32, 64]
DTYPES = ["bfloat16", "float16", "float8_e4m3fn"]
# (N, K): the least speed-up over dense that issue 4 asks of bf16 up to M = 32.
ASKED = {
    (28672, 4096): 1.6,
    (57344, 8192): 1.6,
    (8192, 28672): 1.6,
    (4096, 14336): 1.45,
    (10240, 8192): 1.45,
    (6144, 4096): 1.3,
    (4096, 4096): 1.3,
}
LARGE_AT_64 = 1.5
COPY_BYTES = 1 << 30
ROUNDS = 15

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here


def copy_bandwidth() -> float:
    """GB/s of a large copy on the device, read and written bytes together; the best of ten."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        start, end = (_CUDA.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = min(best, float(start.elapsed_time(end)))
    return 2 * COPY_BYTES / best / 1e6


def best_of(candidates: tuple[Candidate, ...], kernel: str) -> Candidate | None:
    return min((c for c in candidates if c.backend == kernel), key=lambda c: c.us, default=None)


def moved_bytes(n: int, k: int, m: int) -> float:
    """Kept values and places of W, x and y."""
    return n * k * 2 * 9 / 16 + 2 * m * (k + n)


def cell(layer: Layer, n: int, k: int, m: int, dtype: str, copying: float) -> dict[str, Any] | None:
    """One row; None where no variant was tuned."""
    point = next((p for p in lookup(dtype, n, k, GpuMachine.here(0)) if p.m == m), None)
    if layer.bf16:
        return fp8_row(layer, n, k, m, copying, best_of(point.candidates, "cusparselt") if point else None)
    own = best_of(point.candidates, "skinny") if point else None
    if point is None or own is None:
        return None
    theirs = best_of(point.candidates, "cusparselt")
    x, pool = inputs(m, k, getattr(torch, dtype)), torch.cuda.graph_pool_handle()

    def kernel(copy: int) -> torch.Tensor:
        w = layer.packed[copy]
        y: torch.Tensor = ops.skinny_linear(x, w.values, w.positions, None, None, k, "none", own.algorithm)
        return y

    def library(copy: int) -> torch.Tensor:
        w, c = layer.packed[copy], theirs
        assert c is not None
        y: torch.Tensor = torch.ops.sparseflow.cusparselt_linear(
            x, w.values, w.positions, None, None, None, k, "none", x.dtype, 1.0, c.algorithm, c.split_k
        )
        return y

    opponents = dense_opponents.dense(layer, x, pool)
    mine = Replay(kernel, layer.copies, pool)
    rel_err = mine.error(reference(x, layer.dense[0]))
    sides = [*opponents, mine, *([Replay(library, layer.copies, pool)] if theirs else [])]
    for side in sides:
        side.forget()
    us = in_turns(sides, ROUNDS, lambda _: None)
    dense_us, own_us = min(us[: len(opponents)]), us[len(opponents)]
    asked = ASKED[n, k] if m <= 32 else LARGE_AT_64 if ASKED[n, k] == 1.6 else None
    bandwidth = moved_bytes(n, k, m) / own_us / 1e3
    return {
        "dense_us": round(dense_us, 2),
        "ours_us": round(own_us, 2),
        "variant": own.algorithm,
        "cusparselt_us": round(us[-1], 2) if theirs else None,
        "cusparselt_algorithm": theirs.algorithm if theirs else None,
        "speedup": round(dense_us / own_us, 3),
        "over_cusparselt": round(us[-1] / own_us, 3) if theirs else None,
        "gb_per_s": round(bandwidth),
        "share_of_copy": round(bandwidth / copying, 3),
        "rel_err": rel_err,
        "target": asked,
        "met": asked is None or dense_us / own_us >= asked,
    }


def show(row: dict[str, Any]) -> None:
    asked = "" if row["target"] is None else f"≥ {row['target']} {'met' if row['met'] else 'MISSED'}"
    print(
        f"{row['N']:>6}×{row['K']:<6}{row['dtype']:>9} M={row['M']:<3} dense {row['dense_us']:7.2f} µs, "
        f"own {row['ours_us']:7.2f} ({row['speedup']:.2f}×), cuSPARSELt {row['cusparselt_us']}, "
        f"{row['gb_per_s']} GB/s = {100 * row['share_of_copy']:.0f} % of a copy {asked}",
        file=sys.stderr,
        flush=True,
    )


def measure(args: argparse.Namespace, copying: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for dtype, (n, k) in itertools.product(args.dtypes, ASKED):
        layer = Layer.random(n, k, getattr(torch, dtype))
        for m in args.rows:
            found = cell(layer, n, k, m, dtype, copying)
            if found is not None:
                rows.append({"N": n, "K": k, "M": m, "dtype": dtype, **found})
                show(rows[-1])
        del layer
        gpu.reset()
        torch.cuda.empty_cache()
    return rows


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="the M to measure")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="torch's names")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    gpu.require()
    machine = GpuMachine.here(0)
    with torch.no_grad(), _CUDA.stream(_CUDA.Stream()):
        copying = copy_bandwidth()
        rows = measure(args, copying)
    for dtype in ("bfloat16", "float8_e4m3fn"):
        asked = [row for row in rows if row["target"] is not None and row["dtype"] == dtype]
        print(f"{sum(row['met'] for row in asked)} of {len(asked)} {dtype} cells with a target meet it")
    head = _measure.meta(machine.gpu, machine=vars(machine), copy_gb_per_s=round(copying))
    print(f"wrote {_measure.write(_measure.gpu_name('skinny', machine.gpu), head, rows, args.results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
