"""What a call costs the host, and what an unseen M costs: `python benchmarks/bench_host_gpu.py`.

Host cost: wall time of launching, the device far behind, ours and F.linear in turn. Unseen M: wall time of
the first call with each of many random M's after warm-up, until the launch returns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure
import torch
import torch.nn.functional as F

from sparseflow.runtime import gpu, ops
from sparseflow.runtime.gpu import DeviceWeight
from sparseflow.runtime.tuning import GpuMachine
from sparseflow.runtime.tuning.policies import gpu_policies

N, K = 4096, 4096
CALLS, TURNS, UNSEEN = 200, 31, 60
HOST_TARGET, UNSEEN_TARGET_MS = 1.5, 2.0


def launches_us(call: Callable[[], object]) -> float:
    """Microseconds of host time of one call, while a waiting kernel keeps the device out of it."""
    torch.cuda.synchronize()
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    cuda._sleep(100_000_000)
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    spent = time.perf_counter() - start
    torch.cuda.synchronize()
    return spent / CALLS * 1e6


def host_cost(dtype: torch.dtype, m: int) -> dict[str, Any]:
    """Ours against F.linear at an M whose plan is there."""
    weight, packed, codes = layer(dtype)
    x = torch.randn(m, K, device="cuda").to(dtype)
    gpu.prepare(packed, [m], codes)

    def ours() -> object:
        return ops.linear(x, packed.values, packed.positions, None, None, K, "none", codes, None)

    sides = {"dense": lambda: F.linear(x, weight), "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        launches_us(call)
    for turn in range(TURNS):
        for name in sorted(sides, reverse=bool(turn % 2)):
            times[name].append(launches_us(sides[name]))
    dense, mine = (statistics.median(times[name]) for name in ("dense", "ours"))
    ratio = mine / dense
    return {
        "what": "host cost of a call",
        "dtype": str(dtype).removeprefix("torch."),
        "M": m,
        "path": gpu.path(packed, m, codes),
        "dense_us": round(dense, 2),
        "ours_us": round(mine, 2),
        "value": round(ratio, 3),
        "unit": "× F.linear",
        "target": HOST_TARGET,
        "met": ratio <= HOST_TARGET,
    }


def unseen(dtype: torch.dtype) -> dict[str, Any]:
    """The slowest first call with an M that no call had before."""
    weight, packed, codes = layer(dtype)
    ms = random.Random(0).sample(range(65, 8000), UNSEEN)
    times: list[float] = []
    # Warm-up: each algorithm of the policy once, the largest M first, so that memory is there for the others.
    for m in sorted({8000, *codes[::2]}, reverse=True):
        gpu.prepare(packed, [m], codes)
        x = torch.randn(min(m, 8000), K, device="cuda").to(dtype)
        ops.linear(x, packed.values, packed.positions, None, None, K, "none", codes, None)
        ops.linear(x, packed.values, packed.positions, None, None, K, "none", [1, 0], None)
        F.linear(x, weight)
    dense: list[float] = []
    for turn, m in enumerate(ms):
        x = torch.randn(m, K, device="cuda").to(dtype)

        def ours(x: torch.Tensor = x) -> object:
            return ops.linear(x, packed.values, packed.positions, None, None, K, "none", codes, None)

        def theirs(x: torch.Tensor = x) -> object:
            return F.linear(x, weight)

        # Dense serves while a plan is built, and cuBLAS loads a kernel when it first needs it: whoever is
        # first at an M pays for that.
        sides = [(ours, times), (theirs, dense)]
        for call, seen in sides if turn % 2 else reversed(sides):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            seen.append((time.perf_counter() - start) * 1e3)
    worst = max(times)
    return {
        "what": f"first call at an unseen M, slowest of {UNSEEN}",
        "dtype": str(dtype).removeprefix("torch."),
        "median_ms": round(statistics.median(times), 3),
        "dense_median_ms": round(statistics.median(dense), 3),
        "dense_worst_ms": round(max(dense), 3),
        "value": round(worst, 3),
        "unit": "ms",
        "target": UNSEEN_TARGET_MS,
        "met": worst <= UNSEEN_TARGET_MS,
    }


def layer(dtype: torch.dtype) -> tuple[torch.Tensor, DeviceWeight, list[int]]:
    """A pruned weight, its packed form, and a policy that runs sparse at every M."""
    weight = ops.prune_2_4(torch.randn(N, K, device="cuda")).to(dtype)
    policy = gpu_policies([(N, K)], dtype, torch.device("cuda", 0), always=True)[N, K]
    if isinstance(policy, str):
        raise SystemExit(f"bench_host_gpu: {policy}")
    values, positions = ops.pack_2_4(weight)
    packed = DeviceWeight.from_portable(values, positions, K)
    return weight, packed, policy.to_ints()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    gpu.require()
    dtypes = (torch.bfloat16, torch.float16)
    with torch.inference_mode():
        rows = [host_cost(dtype, m) for dtype in dtypes for m in (8, 1024, 3)]
        rows += [unseen(dtype) for dtype in dtypes]
    for row in rows:
        m = f" M={row['M']}" if "M" in row else ""
        verdict = f"asked {row['target']}: {'met' if row['met'] else 'MISSED'}"
        print(f"{row['what']}, {row['dtype']}{m}: {row['value']} {row['unit']}, {verdict}")
    machine = GpuMachine.here(0)
    name = _measure.gpu_name("host", machine.gpu)
    print(
        f"wrote {_measure.write(name, _measure.meta(machine.gpu, machine=vars(machine)), rows, args.results)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
