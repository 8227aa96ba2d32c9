"""Products with 4:6 and 6:8 weights on a GPU beside dense: `python benchmarks/bench_patterns_gpu.py`.

For each cell, in one process and in turn: dense F.linear with the same pruned weight by both of torch's
libraries (the faster counts), the decompression with the dense product, and every variant of the kernel for
few rows. From these times the policies of memory modes fast and compressed are chosen as the tuner does.
Device time by CUDA-graph replay over weights that rotate past the L2 cache.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import _measure
import torch
from torch import Tensor

from sparseflow.runtime import gpu
from sparseflow.runtime.dispatch.thresholds import Timed, choose_by_thresholds
from sparseflow.runtime.kernels import Choice, Problem, find
from sparseflow.runtime.tuning import GpuMachine, dense_opponents
from sparseflow.runtime.tuning.layers import Layer, inputs, reference
from sparseflow.runtime.tuning.pace import PACES
from sparseflow.runtime.tuning.replay import Replay, in_turns

SHAPES = [(28672, 4096), (57344, 8192), (4096, 14336), (6144, 4096)]
PATTERNS = ["6:8", "4:6"]
ROWS = [1, 8, 16, 32, 64, 2048, 8192]
FEW = 16
LARGE = SHAPES[:2]
NEVER_SLOWER = 0.98
TARGETS = {"6:8": 1.2, "4:6": 1.32}


def timed(layer: Layer, n: int, k: int, m: int, pattern: str) -> tuple[Timed, float]:
    """The times of a cell's ways, and the largest relative error of any."""
    dtype = layer.dense[0].dtype
    x, pool = inputs(m, k, dtype), torch.cuda.graph_pool_handle()
    calls = PACES["quick"].calls(n, k, m)
    kernel = find("tiles")
    name = str(dtype).removeprefix("torch.")
    choices = kernel.candidates(Problem(name, n, k, "cuda:0", m, pattern))

    def replay(choice: Choice) -> Replay:
        def product(copy: int) -> Tensor:
            return kernel.run(x, layer.packed[copy], choice, dtype)

        return Replay(product, layer.copies, pool, calls)

    dense = dense_opponents.dense(layer, x, pool, calls)
    sides = [*dense, dense_opponents.unpacked(layer, x, pool, calls), *map(replay, choices)]
    expected = reference(x, layer.dense[0])
    errors = [side.error(expected) for side in sides]
    del expected
    for side in sides:
        side.forget()
    us = in_turns(sides, 5, lambda _: None)
    few = dict(zip(choices, us[len(dense) + 1 :], strict=True))
    return Timed(m, min(us[: len(dense)]), us[len(dense)], few), max(errors)


def layer_rows(n: int, k: int, pattern: str, dtype: torch.dtype, ms: list[int]) -> list[dict[str, Any]]:
    """The rows of one layer."""
    layer = Layer.random(n, k, dtype, pattern)
    found = [(m, *timed(layer, n, k, m, pattern)) for m in ms]
    points = [point for _, point, _ in found]
    fast, compressed = (choose_by_thresholds(points, memory) for memory in ("fast", "compressed"))
    rows = []
    for m, point, rel_err in found:
        best = point.best()
        row: dict[str, Any] = {
            "N": n,
            "K": k,
            "M": m,
            "dtype": str(dtype).removeprefix("torch."),
            "pattern": pattern,
            "dense_us": round(point.dense, 2),
            "unpacked_us": round(point.unpacked, 2),
            "ways_us": {str(way): round(us, 2) for way, us in point.sparse.items()},
            "best": round(point.dense / best[1], 3) if best else None,
            "fast": str(fast.choice(m)),
            "speedup": round(fast.speedup(m), 3),
            "compressed": str(compressed.choice(m)),
            "speedup_compressed": round(compressed.speedup(m), 3),
            "bytes_over_dense": round(layer.packed[0].nbytes / layer.dense[0].nbytes, 4),
            "rel_err": rel_err,
        }
        asked = TARGETS[pattern] if m <= FEW and (n, k) in LARGE else NEVER_SLOWER
        row |= {"target": asked, "met": fast.speedup(m) >= asked}
        rows.append(row)
        print(
            f"{n:>6}×{k:<6}{pattern} {row['dtype']} M={m:<5} dense {point.dense:8.1f} µs "
            f"{row['fast']:>8} {row['speedup']:.3f}× compressed {row['speedup_compressed']:.3f}× "
            f"≥ {asked:.2f} {'met' if row['met'] else 'MISSED'} err {rel_err:.1e}",
            file=sys.stderr,
            flush=True,
        )
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float16"], default=["bfloat16"])
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="the M to measure")
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=PATTERNS)
    parser.add_argument("--deadline", type=float, default=50, help="seconds after which no layer is begun")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    torch.manual_seed(0)
    gpu.require()
    machine = GpuMachine.here(0)
    rows: list[dict[str, Any]] = []
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    begin = time.perf_counter()
    with torch.inference_mode(), cuda.stream(cuda.Stream()):
        for dtype, (n, k), pattern in itertools.product(args.dtypes, SHAPES, args.patterns):
            if time.perf_counter() - begin > args.deadline:
                print(f"stopped before {n}x{k} {pattern}: the deadline is over", file=sys.stderr)
                break
            rows += layer_rows(n, k, pattern, getattr(torch, dtype), args.rows)
            gpu.reset()
            torch.cuda.empty_cache()
    print(f"{sum(row['met'] for row in rows)} of {len(rows)} cells reach what is asked of them")
    head = _measure.meta(machine.gpu, machine=vars(machine))
    print(f"wrote {_measure.write(_measure.gpu_name('patterns', machine.gpu), head, rows, args.results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
