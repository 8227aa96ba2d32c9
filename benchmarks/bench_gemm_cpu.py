"""Packed weights times x on the CPU against F.linear on the same pruned weight, for one or more formats.

    python benchmarks/bench_gemm_cpu.py [--formats 4:6 6:8]

Both sides run in turns in one process with the same threads, on weights rotated past the caches; medians.
Each mode (what the machine has; what an AVX2 machine has) is a child process, since torch's libraries choose
their instruction set at start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from typing import Any

import _measure

from sparseflow.runtime.dispatch import Policy, calibrate
from sparseflow.runtime.formats import find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.pattern import Pattern
from sparseflow.runtime.timing import interleaved, once

MODES = {
    "native": {},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "SPARSEFLOW_CPU_ISA": "avx2",
    },
}
SHAPES = [(4096, 4096), (14336, 4096)]
ROWS = [1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024]
QUICK_ROWS = [1, 4, 16, 64, 256, 1024]
DTYPES = ["float32", "bfloat16", "float16"]
NEVER_SLOWER = 0.98
ROTATED_BYTES = 192 << 20  # several times the last-level cache


def target(format: str, dtype: str, m: int) -> float | None:
    """The speed-up that the kernels were asked to reach; None where only not losing was asked."""
    if format != "2:4":
        return {"4:6": 1.3, "6:8": 1.2}[format] if m == 1 else None
    if dtype == "float32":
        return {1: 1.6, 4: 2.0, 8: 2.0, 12: 2.0, 16: 2.0, 64: 1.3, 256: 1.15}.get(m)
    if m == 1:
        return 1.4
    return 3.0 if 4 <= m <= 256 else None


def weights(format: str, n: int, k: int, dtype: Any) -> list[tuple[Any, ...]]:
    """Pruned weights, dense and packed, enough to outgrow the caches."""
    import torch

    count = max(2, -(-ROTATED_BYTES // (n * k * dtype.itemsize)))
    stored, out = find(format), []
    for _ in range(count):
        dense = Pattern.of(stored.pattern).prune(torch.randn(n, k).to(dtype))
        out.append((dense, *stored.pack(dense)))
    return out


def measure(
    format: str, k: int, m: int, packs: list[tuple[Any, ...]], policy: Policy, seconds: float
) -> dict[str, Any]:
    """One row: dense, our kernel, what dispatch runs, and the relative error of our kernel against fp64."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(m, k).to(packs[0][0].dtype)
    stored = find(format)

    def dense(i: int) -> Any:
        return F.linear(x, packs[i % len(packs)][0])

    def packed(i: int, ranges: list[int]) -> Any:
        return stored.op(x, *packs[i % len(packs)][1:], None, None, k, "none", ranges)

    kernel = policy.kernel(m)
    sides = [dense, lambda i: packed(i, [])]
    if kernel != "cpu":
        sides.append(lambda i: packed(i, policy.to_ints()))
    times = interleaved(sides, seconds=seconds)
    rows = slice(0, min(m, 64))
    exact = x[rows].double() @ packs[0][0].double().T
    error = ((packed(0, [])[rows].double() - exact).norm() / exact.norm()).item()
    dense_us, ours_us, *dispatched = (statistics.median(side) * 1e6 for side in times)
    dispatched_us = dispatched[0] if dispatched else ours_us
    return {
        "dense_us": round(dense_us, 1),
        "ours_us": round(ours_us, 1),
        "speedup": round(dense_us / ours_us, 3),
        "speedup_of_minima": round(min(times[0]) / min(times[1]), 3),
        "backend": kernel,
        "dispatched_us": round(dispatched_us, 1),
        "speedup_dispatched": round(dense_us / dispatched_us, 3),
        "rel_err": error,
        "turns": len(times[0]),
    }


def read_bandwidth() -> float:
    """GB/s that torch reads memory with, all threads: the sum of a large vector."""
    import torch

    data = torch.ones(ROTATED_BYTES // 4)
    best = min(once(lambda: data.sum()) for _ in range(9))
    return float(data.nbytes / best / 1e9)


def gigabytes(format: str, n: int, k: int, dtype: Any) -> float:
    """Of a packed weight."""
    return find(format).nbytes(n, k, ELEMENT_TYPES[dtype]) / 1e9


def child(mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """All rows of one mode, in this process."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    bandwidth = read_bandwidth()
    rows = []
    for format, (n, k), name in itertools.product(args.formats, args.shapes, args.dtypes):
        dtype = getattr(torch, name)
        policy = calibrate([(n, k)], dtype, format=format)[n, k]
        packs = weights(format, n, k, dtype)
        for m in args.rows:
            row = {
                "format": format,
                "N": n,
                "K": k,
                "M": m,
                "dtype": name,
                "mode": mode,
                **_instruction_sets(),
            }
            row |= {"threads": args.threads, "load": round(os.getloadavg()[0], 1)}
            row |= measure(format, k, m, packs, policy, args.seconds)
            row["gb_per_s"] = round(gigabytes(format, n, k, dtype) / row["ours_us"] * 1e6, 2)
            rows.append(judged(row))
            show(row)
    return {"bandwidth": {mode: round(bandwidth, 1)}, "rows": rows}


def _instruction_sets() -> dict[str, str]:
    import torch

    return {
        "isa": torch.ops.sparseflow.cpu_isa(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its targets: of the kernel, and of never losing with dispatch on."""
    row["target"] = target(row["format"], row["dtype"], row["M"])
    row["met"] = row["target"] is None or row["speedup"] >= row["target"]
    row["never_slower"] = row["speedup_dispatched"] >= NEVER_SLOWER
    return row


def show(row: dict[str, Any]) -> None:
    """One line of the table, to stderr."""
    asked = "" if row["target"] is None else f"≥ {row['target']:.2f} {'met' if row['met'] else 'MISSED'}"
    print(
        f"{row['mode']:>6} {row['format']} {row['N']:>6}×{row['K']:<6} {row['dtype']:>8} M={row['M']:<5}"
        f"{row['dense_us'] / 1e3:>9.3f} ms {row['ours_us'] / 1e3:>8.3f} ms {row['speedup']:>6.2f}×"
        f" {asked:<14} dispatched {row['speedup_dispatched']:>5.2f}×"
        f" {'' if row['never_slower'] else 'LOSES':<6}{row['gb_per_s']:>6.1f} GB/s err {row['rel_err']:.1e}",
        file=sys.stderr,
        flush=True,
    )


def run_child(mode: str, argv: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", mode, *argv]
    done = subprocess.run(command, env={**os.environ, **MODES[mode]}, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape, fewer M, shorter")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--formats", nargs="+", choices=["2:4", "4:6", "6:8"], default=["2:4"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rows", nargs="+", type=int, help="the M to measure")
    parser.add_argument("--shapes", nargs="+", type=lambda s: tuple(map(int, s.split("x"))), help="NxK")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, help="of measuring for each row")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--child", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.rows = args.rows or (QUICK_ROWS if args.quick else ROWS)
    args.shapes = args.shapes or (SHAPES[:1] if args.quick else SHAPES)
    args.seconds = args.seconds or (0.4 if args.quick else 2.0)
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.child:
        json.dump(child(args.child, args), sys.stdout)
        return 0
    results = [run_child(mode, argv) for mode in args.modes]
    rows = [row for result in results for row in result["rows"]]
    bandwidth = {mode: gb for result in results for mode, gb in result["bandwidth"].items()}
    asked = [row for row in rows if row["target"] is not None]
    print(f"{sum(row['met'] for row in asked)} of {len(asked)} rows with a target meet it")
    print(f"{sum(row['never_slower'] for row in rows)} of {len(rows)} rows are never slower with dispatch on")
    if not args.no_write:
        head = _measure.meta(_measure.cpu_name(), read_gb_per_s=bandwidth)
        name = "gemm_cpu" if args.formats == ["2:4"] else "gemm_cpu_patterns"
        print(f"wrote {_measure.write(name, head, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
