"""What a call costs the host, and what an unseen M costs: `python benchmarks/bench_host_gpu.py`.

Host cost: wall time of launching, the device far behind, ours and F.linear in turn. Unseen M: wall time of
the first call with each of many random M's after warm-up, until the launch returns; the slowest are listed,
and `--stalls` takes those of a second series apart with torch's profiler. Whole programs: the host time of
a call that replays a recorded program, beside torch.compile's ``mode="reduce-overhead"``.
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

import _host_programs
import _measure
import _stalls
import torch
import torch.nn.functional as F

from sparseflow.runtime import gpu, ops
from sparseflow.runtime.gpu import DeviceWeight
from sparseflow.runtime.products import which
from sparseflow.runtime.tuning import GpuMachine

N, K = 4096, 4096
CALLS, TURNS, UNSEEN, LARGEST, SLOWEST = 200, 31, 60, 8000, 5
AHEAD = 100_000_000
"""Cycles of the kernel that the launches wait behind."""
HOST_TARGET, UNSEEN_TARGET_MS = 1.5, 2.0
PARTS = ["products", "unseen", "programs"]


def launches_us(call: Callable[[], object]) -> float:
    """Microseconds of host time of one launch."""
    return _host_programs.call_us(call, CALLS, AHEAD)


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


class FirstCalls:
    """First calls at M's that no call had before, ours and F.linear in turn.

    Args:
        dtype: of x and W.
        seed: of the M's.
    """

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype = dtype
        self.weight, self.packed, self.codes = layer(dtype)
        self.ms = random.Random(seed).sample(range(65, LARGEST), UNSEEN)
        self._warm_up()

    def _warm_up(self) -> None:
        """Plans a factor of 1.3 apart, each run once; the largest first: its memory serves the others."""
        ladder = [LARGEST]
        while ladder[-1] > 64:
            ladder.append(ladder[-1] * 10 // 13)
        ms = sorted({*ladder, *(m for m in self.codes[::2] if m <= LARGEST)}, reverse=True)
        gpu.prepare(self.packed, ms, self.codes)
        for m in ms:
            x = self.x(m)
            for call in (self.ours(x), self.ours(x, [1, 0]), self.theirs(x)):
                call()

    def x(self, m: int) -> torch.Tensor:
        """Random x ``[M, K]``."""
        return torch.randn(m, K, device="cuda").to(self.dtype)

    def ours(self, x: torch.Tensor, codes: list[int] | None = None) -> Callable[[], object]:
        """The call of the operator, by the layer's policy unless told otherwise."""
        w, policy = self.packed, codes or self.codes
        return lambda: ops.linear(x, w.values, w.positions, None, None, K, "none", policy, None)

    def theirs(self, x: torch.Tensor) -> Callable[[], object]:
        """The dense product."""
        return lambda: F.linear(x, self.weight)

    def measure(self) -> tuple[list[tuple[float, str]], list[float]]:
        """Milliseconds of each call, ours with a line about it, and those of F.linear."""
        ours: list[tuple[float, str]] = []
        dense: list[float] = []
        for turn, m in enumerate(self.ms):
            x = self.x(m)
            # Dense may serve while a plan is built, and cuBLAS loads a kernel when it first needs it: whoever
            # is first at an M pays for that.
            for side in ("ours", "dense") if turn % 2 else ("dense", "ours"):
                call = self.ours(x) if side == "ours" else self.theirs(x)
                before = gpu.stats()
                torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                ms = (time.perf_counter() - start) * 1e3
                if side == "dense":
                    dense.append(ms)
                    continue
                built = gpu.stats().built - before.built
                ours.append(
                    (
                        ms,
                        f"call {turn}, M={m}, {ms:.3f} ms, after it: {gpu.path(self.packed, m, self.codes)}; "
                        f"plans pending before: {before.pending}, built meanwhile: {built}",
                    )
                )
        return ours, dense


def unseen(dtype: torch.dtype) -> dict[str, Any]:
    """The slowest first call with an M that no call had before."""
    ours, dense = FirstCalls(dtype, seed=0).measure()
    times = [ms for ms, _ in ours]
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
        "slowest": [line for _, line in sorted(ours, reverse=True)[:SLOWEST]],
    }


def stalls(dtype: torch.dtype) -> list[str]:
    """Where the slowest of further first calls spent their time."""
    torch.ops.sparseflow.plans_wait()
    gpu.reset()
    first = FirstCalls(dtype, seed=1)
    return _stalls.explain({f"M={m}": first.ours(first.x(m)) for m in first.ms})


def layer(dtype: torch.dtype) -> tuple[torch.Tensor, DeviceWeight, list[int]]:
    """A pruned weight, its packed form, and a policy that runs sparse at every M."""
    weight = ops.prune_2_4(torch.randn(N, K, device="cuda")).to(dtype)
    policy = which.policies([(N, K)], dtype, torch.device("cuda", 0), mode="sparse", tune="off")[N, K]
    if isinstance(policy, str):
        raise SystemExit(f"bench_host_gpu: {policy}")
    values, positions = ops.pack_2_4(weight)
    packed = DeviceWeight.from_portable(values, positions, K)
    return weight, packed, policy.to_ints()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    parser.add_argument(
        "--stalls", action="store_true", help="say where the slowest first calls spend their time"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args(argv)
    gpu.require()
    dtypes = (torch.bfloat16, torch.float16)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        if "products" in args.parts:
            rows += [host_cost(dtype, m) for dtype in dtypes for m in (8, 1024, 520, 3)]
        if "unseen" in args.parts:
            rows += [unseen(dtype) for dtype in dtypes]
        for dtype in dtypes if args.stalls else ():
            print(f"where the slowest first calls in {dtype} spend their time:", *stalls(dtype), sep="\n  ")
    with torch.no_grad():
        if "programs" in args.parts:
            rows += _host_programs.whole_programs()
    for row in rows:
        m = f" M={row['M']}" if "M" in row else ""
        verdict = f"asked {row['target']}: {'met' if row['met'] else 'MISSED'}"
        print(f"{row['what']}, {row['dtype']}{m}: {row['value']} {row['unit']}, {verdict}")
        if "torch_compile_us" in row:
            print(f"    torch.compile, reduce-overhead: {row['torch_compile_us']} µs")
        for line in (*row.get("slowest", ()), *row.get("decisions", ())):
            print("   ", line)
    machine = GpuMachine.here(0)
    name = _measure.gpu_name("host", machine.gpu)
    print(
        f"wrote {_measure.write(name, _measure.meta(machine.gpu, machine=vars(machine)), rows, args.results)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
