"""What the device does during a call, kernel by kernel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

CALLS = 5
"""Calls that are recorded, after one that isn't."""

LONGEST = 100
"""Characters of a kernel's name: enough of those that inductor makes of the operators in them."""

SPANS = ("Torch-Compiled", "## ", "ProfilerStep")
"""Beginnings of what the profiler also shows on the device, which is no kernel."""

KINDS = {
    "copies": r"mem(cpy|set)|fill",
    "between": r"^triton_|elementwise|vectorized|reduce|norm|quantize|activate|finish|gate",
    "attention": r"flash|fmha|attention|sdpa",
    "products": r"gemm|nvjet|cutlass|wide|skinny|spmma|sparse|cublas|sm90",
}
"""Kinds by what a kernel's name has; the first that fits counts."""


def kernel_times(call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Kernels of one call by name, the longest first: how often each runs and what it takes in all."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = defaultdict(list)
    for event in recorded.events() or ():
        if event.device_type == DeviceType.CUDA and not event.name.startswith(SPANS):
            found[event.name].append(float(event.time_range.elapsed_us()))
    rows = [
        {
            "kind": kind_of(name),
            "kernel": shortened(name),
            "count": len(us) / CALLS,
            "us": round(sum(us) / CALLS, 2),
        }
        for name, us in found.items()
    ]
    return sorted(rows, key=lambda row: -float(row["us"]))


def kind_of(kernel: str) -> str:
    """One of `KINDS`, or other."""
    return next((kind for kind, has in KINDS.items() if re.search(has, kernel, re.IGNORECASE)), "other")


def shortened(kernel: str) -> str:
    """A kernel's name without spaces of names, return type and arguments."""
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::|^void ", "", kernel)
    return name[:LONGEST]


def by_kind(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Microseconds of each kind, and of all."""
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        sums[str(row["kind"])] += float(row["us"])
        sums["all"] += float(row["us"])
    return {f"{kind}_us": round(us, 1) for kind, us in sums.items()}
