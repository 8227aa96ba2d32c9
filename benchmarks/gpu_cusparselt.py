"""cuSPARSELt through SparseFlow against dense cuBLAS: device time, host time of a call, time to build a plan.

    python benchmarks/gpu_cusparselt.py --out benchmarks/results/gpu_cusparselt.json

Device time is the median over replays of a CUDA graph of calls over rotating weights, both sides in turn;
host time is wall time of calls that the GPU keeps up with. Every algorithm is tried and checked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import gpu, ops

SHAPES = ((28672, 4096), (4096, 14336))
ROWS = (1, 16, 64, 256, 1024, 4096)
CACHE = 128 << 20  # bytes of dense weights in rotation at least: twice the L2


def replay_us(calls: list[Callable[[], Tensor]], replays: int = 5, rounds: int = 2) -> Callable[[], float]:
    """Capture the calls once; each invocation of the result times one of them in µs, by replays."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    start, end = torch.cuda.Event(True), torch.cuda.Event(True)

    def once() -> float:
        times = []
        for _ in range(replays):
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / (rounds * len(calls)))
        return statistics.median(times)

    once()
    return once


def search(device: gpu.DeviceWeight, x: Tensor, expected: Tensor) -> list[tuple[float, int]]:
    """Every algorithm that is right, with a rough time in µs, fastest first."""
    args = (device.values, device.positions, None, None, None, device.in_features, "none", x.dtype, 1.0)
    product = torch.ops.sparseflow.cusparselt_linear.default
    found = []
    for algorithm in range(count_algorithms(device, len(x))):
        y = product(x, *args, algorithm, 0)
        if (y.float() - expected).norm() > 5e-3 * expected.norm():
            print("wrong result of algorithm", algorithm, x.dtype, x.shape, file=sys.stderr)
            continue
        start, end = torch.cuda.Event(True), torch.cuda.Event(True)
        start.record()
        for _ in range(5):
            product(x, *args, algorithm, 0)
        end.record()
        end.synchronize()
        found.append((start.elapsed_time(end) * 200, algorithm))
    return sorted(found)


def count_algorithms(device: gpu.DeviceWeight, m: int) -> int:
    dtype = device.values.dtype
    return int(
        torch.ops.sparseflow.cusparselt_algorithms(device.values, device.in_features, m, "none", dtype, False)
    )


def prepare_all(device: gpu.DeviceWeight) -> None:
    for algorithm in range(count_algorithms(device, 1)):
        gpu.prepare(device, ROWS, [1, gpu.policy_code(algorithm)], wait=False)
    torch.ops.sparseflow.plans_wait()


def shape_rows(n: int, k: int, dtype: torch.dtype) -> list[dict[str, object]]:
    copies = max(2, -(-CACHE // (n * k * dtype.itemsize)))
    dense = [ops.prune_2_4(torch.randn(n, k, device="cuda", dtype=dtype) * 0.05) for _ in range(copies)]
    sparse = [gpu.DeviceWeight.from_portable(*ops.pack_2_4(w), k) for w in dense]
    began = time.perf_counter()
    prepare_all(sparse[0])
    print(f"{dtype} {n}x{k}: all plans in {time.perf_counter() - began:.1f} s", flush=True)
    return [measure(n, k, m, dense, sparse) for m in ROWS]


def measure(n: int, k: int, m: int, dense: list[Tensor], sparse: list[gpu.DeviceWeight]) -> dict[str, object]:
    x = torch.randn(m, k, device="cuda", dtype=dense[0].dtype)
    expected = F.linear(x, dense[0]).float()
    candidates = [algorithm for _, algorithm in search(sparse[0], x, expected)[:3]]

    def sparse_calls(algorithm: int) -> list[Callable[[], Tensor]]:
        policy = [1, gpu.policy_code(algorithm)]
        return [
            lambda w=w: ops.linear(x, w.values, w.positions, None, None, k, "none", policy) for w in sparse
        ]

    time_dense = replay_us([lambda w=w: F.linear(x, w) for w in dense])
    timed = {a: replay_us(sparse_calls(a)) for a in candidates}
    dense_us, ours = [], {a: [] for a in candidates}
    for _ in range(3):
        dense_us.append(time_dense())
        for algorithm, once in timed.items():
            ours[algorithm].append(once())
    best = min(ours, key=lambda a: statistics.median(ours[a]))
    d, o = statistics.median(dense_us), statistics.median(ours[best])
    print(f"  M={m}: dense {d:.1f} µs, ours {o:.1f} µs, {d / o:.2f}x, algorithm {best}", flush=True)
    return {"N": n, "K": k, "M": m, "dtype": str(x.dtype), "dense_us": d, "ours_us": o, "algorithm": best}


def host_us(call: Callable[[], Tensor], calls: int = 500) -> float:
    times = []
    for _ in range(7):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(times)


def host_row(dtype: torch.dtype, m: int, *, with_bias: bool) -> dict[str, object]:
    w = ops.prune_2_4(torch.randn(1024, 1024, device="cuda", dtype=dtype))
    device = gpu.DeviceWeight.from_portable(*ops.pack_2_4(w), 1024)
    bias = torch.randn(1024, device="cuda", dtype=dtype) if with_bias else None
    policy = [1, 0, 8, gpu.policy_code(0), 100000, 0]
    x = torch.randn(m, 1024, device="cuda", dtype=dtype)
    gpu.prepare(device, [m], policy, bias=with_bias)
    args = (x, device.values, device.positions, bias, None, 1024, "none", policy)
    dense, ours = host_us(lambda: F.linear(x, w, bias)), host_us(lambda: ops.linear(*args))
    row = {"dtype": str(dtype), "M": m, "bias": with_bias, "dense_us": dense, "ours_us": ours}
    print(row, flush=True)
    return row


def host_rows() -> list[dict[str, object]]:
    cases = ((16, False), (16, True), (17, False), (64, True))
    return [host_row(d, m, with_bias=b) for d in (torch.bfloat16, torch.float16) for m, b in cases]


def plan_rows() -> list[dict[str, object]]:
    rows = []
    for dtype in (torch.bfloat16, torch.float16):
        device = gpu.DeviceWeight.from_portable(
            *ops.pack_2_4(torch.randn(4096, 4096, device="cuda", dtype=dtype)), 4096
        )
        times = []
        for m in (320, 352, 384, 416, 448):
            began = time.perf_counter()
            gpu.prepare(device, [m])
            times.append((time.perf_counter() - began) * 1e3)
        x = torch.randn(1500, 4096, device="cuda", dtype=dtype)
        ops.linear(x, device.values, device.positions, None, None, 4096, "none", [1, 0])
        torch.cuda.synchronize()
        began = time.perf_counter()
        ops.linear(x, device.values, device.positions, None, None, 4096, "none", [])
        unseen = (time.perf_counter() - began) * 1e3
        rows.append(
            {"dtype": str(dtype), "plan_ms": statistics.median(times), "first_call_at_unseen_m_ms": unseen}
        )
        print(rows[-1], flush=True)
    return rows


def decompress_rows() -> list[dict[str, object]]:
    rows = []
    for n, k in SHAPES:
        w = ops.prune_2_4(torch.randn(n, k, device="cuda", dtype=torch.bfloat16))
        device = gpu.DeviceWeight.from_portable(*ops.pack_2_4(w), k)
        us = replay_us([device.dense] * 4)()
        rows.append({"N": n, "K": k, "decompress_us": us, "GB/s": (device.nbytes + w.nbytes) / us / 1e3})
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    options = parser.parse_args()
    gpu.require()
    result = {
        "meta": {
            "device": torch.cuda.get_device_name(),
            "command": " ".join(sys.argv),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"torch": torch.__version__, "cusparselt": gpu.version()},
        }
    }
    with torch.inference_mode():
        result |= {"host": host_rows(), "plans": plan_rows(), "decompress": decompress_rows()}
        result["rows"] = [
            r for d in options.dtypes for s in SHAPES for r in shape_rows(*s, getattr(torch, d))
        ]
    options.out.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
