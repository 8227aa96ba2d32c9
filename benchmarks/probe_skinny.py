"""Probe of the skinny kernel on a GPU, to choose its variants: every variant against dense, per shape and M.

    python benchmarks/probe_skinny.py FOLDER [--quick]

Device time by CUDA-graph replay over weights that rotate past the L2, dense and all variants interleaved.
Prints a line per cell and writes FOLDER/probe_skinny.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import gpu

SHAPES = [
    (28672, 4096),
    (57344, 8192),
    (8192, 28672),
    (4096, 14336),
    (10240, 8192),
    (6144, 4096),
    (4096, 4096),
]
ROWS = {torch.bfloat16: (1, 2, 4, 8, 16, 32, 64), torch.float16: (1, 16, 64)}
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 6e-4}
ROTATED = 200e6  # bytes of packed weights, at least
REPLAYED = 400e-6  # seconds that one replay should take, at least
ROUNDS = 7


@dataclasses.dataclass(frozen=True)
class Weights:
    """Copies of one pruned weight ``[N, K]``, packed and dense."""

    packed: list[gpu.DeviceWeight]
    dense: list[Tensor]

    @classmethod
    def make(cls, n: int, k: int, dtype: torch.dtype) -> Weights:
        """Random, of enough copies to rotate past the L2."""
        values = torch.randn(n, k // 2, device="cuda", dtype=dtype) * 0.05
        legal = torch.tensor([4, 8, 12, 9, 13, 14], device="cuda", dtype=torch.uint8)
        low, high = (legal[torch.randint(6, (n, k // 8), device="cuda")] for _ in range(2))
        copies = math.ceil(ROTATED / (n * k * 9 / 8))
        packed = [gpu.DeviceWeight.from_portable(values, low | high << 4, k) for _ in range(copies)]
        return cls(packed, [weight.dense() for weight in packed])


def skinny(x: Tensor, weight: gpu.DeviceWeight, variant: int) -> Tensor:
    y: Tensor = torch.ops.sparseflow.skinny_linear(
        x, weight.values, weight.positions, None, None, weight.in_features, "none", variant
    )
    return y


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 2 GB."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [elapsed(lambda: target.copy_(source)) for _ in range(6)]
    return 2 * source.numel() / statistics.median(times[1:])


def elapsed(call: Callable[[], Any]) -> float:
    """Seconds on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def captured(calls: list[Callable[[], Tensor]], pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=pool)
        for call in calls:
            call()
        graph.capture_end()
    return graph


def candidates(x: Tensor, weights: Weights, times: int) -> Iterator[tuple[int, list[Callable[[], Tensor]]]]:
    """Dense as −1, then each variant; as calls that go ``times`` over the copies."""
    yield -1, [lambda w=w: F.linear(x, w) for w in weights.dense] * times  # type: ignore[misc]
    n, k = weights.dense[0].shape
    for variant in range(torch.ops.sparseflow.skinny_variants(n, k, len(x))):
        yield variant, [lambda w=w, v=variant: skinny(x, w, v) for w in weights.packed] * times  # type: ignore[misc]


def cell(
    x: Tensor, weights: Weights, expected: Tensor, pool: Any, stream: torch.cuda.Stream
) -> dict[str, Any]:
    """Errors and median seconds of every candidate, and of variant −1's choice the error."""
    n, k = weights.dense[0].shape
    copies = len(weights.dense)
    times = math.ceil(REPLAYED / (n * k * 9 / 8 / 4e12) / copies)
    graphs, errors, failed = {}, {}, {}
    for name, calls in candidates(x, weights, times):
        try:
            errors[name] = float((calls[0]().float() - expected).norm() / expected.norm())
            graphs[name] = captured(calls, pool, stream)
        except RuntimeError as error:
            failed[name] = str(error).splitlines()[0]
    chosen = float((skinny(x, weights.packed[0], -1).float() - expected).norm() / expected.norm())
    taken: dict[int, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS + 1):
        for name, graph in graphs.items():
            taken[name].append(elapsed(graph.replay) / (copies * times))
    seconds = {name: statistics.median(t[1:]) for name, t in taken.items()}
    return {"seconds": seconds, "errors": errors, "failed": failed, "error_of_choice": chosen}


def summary(n: int, k: int, m: int, dtype: torch.dtype, result: dict[str, Any], bandwidth: float) -> str:
    seconds, errors = result["seconds"], result["errors"]
    dense = seconds[-1]
    right = {v: s for v, s in seconds.items() if v >= 0 and errors[v] < TOLERANCE[dtype]}
    wrong = sorted(v for v in errors if v >= 0 and v not in right)
    head = f"{str(dtype)[6:]:9}{n:6}x{k:<6}M={m:<3} dense {dense * 1e6:7.1f}"
    tail = (f"  WRONG {wrong}" if wrong else "") + (
        f"  FAILED {result['failed']}" if result["failed"] else ""
    )
    if not right:
        return head + tail
    best = min(right, key=lambda v: right[v])
    moved = n * k * 9 / 8 + 2 * m * (n + k)
    rate = moved / right[best]
    ranked = " ".join(f"{v}:{dense / right[v]:.2f}" for v in sorted(right, key=lambda v: right[v])[:5])
    return (
        f"{head}  best v{best:<2}{right[best] * 1e6:7.1f} us  {dense / right[best]:.2f}x "
        f"{rate / 1e9:5.0f} GB/s {100 * rate / bandwidth:3.0f}%  err {errors[best]:.1e}  [{ranked}]{tail}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="two shapes, bf16, M = 1 and 64")
    options = parser.parse_args()
    begun = time.monotonic()
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e9:.0f} GB/s")
    rows = []
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    for n, k in [(28672, 4096), (4096, 4096)] if options.quick else SHAPES:
        for dtype, all_rows in ROWS.items():
            if options.quick and dtype != torch.bfloat16:
                continue
            weights = Weights.make(n, k, dtype)
            x = torch.randn(64, k, device="cuda", dtype=dtype)
            expected = x.float() @ weights.dense[0].float().T
            for m in (1, 64) if options.quick else all_rows:
                result = cell(x[:m], weights, expected[:m], pool, stream)
                print(summary(n, k, m, dtype, result, bandwidth), flush=True)
                rows.append({"N": n, "K": k, "M": m, "dtype": str(dtype)[6:], **result})
            del weights
            torch.cuda.empty_cache()
    print(f"{time.monotonic() - begun:.0f} s")
    options.folder.mkdir(parents=True, exist_ok=True)
    out = {"device": torch.cuda.get_device_name(), "copy_bytes_per_s": bandwidth, "rows": rows}
    (options.folder / "probe_skinny.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
