"""The kernels of a call, by torch's profiler."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity

from sparseflow.errors import ProfileError
from sparseflow.profiling.kinds import Kind, kind_of

_OPERATOR = re.compile(r"\w+::\w")
_COMPILED = re.compile(r"## Call CompiledFxGraph")
"""Inductor's C++ kernels on the CPU have no events of their own: they are the own time of this one."""


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel, or of one operator on the CPU.

    Attributes:
        name: as the profiler has it.
        kind: of work.
        calls: launches in one call of the model.
        us: microseconds of one call of the model; on the CPU without those of the operators that it calls.
    """

    name: str
    kind: Kind
    calls: float
    us: float


def kernels(run: Callable[[], object], device: torch.device, calls: int) -> tuple[Kernel, ...]:
    """Profile `calls` calls and return their kernels, the longest first, each launch counted once.

    Raises:
        ProfileError: the profiler saw no kernel.
    """
    cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(calls):
            run()
        if cuda:
            torch.cuda.synchronize(device)
    launches: dict[str, list[float]] = {}
    for event in profiler.events():
        found = _on_gpu(event) if cuda else _on_cpu(event)
        if found is not None:
            launches.setdefault(found[0], []).append(found[1])
    if not sum(map(sum, launches.values())):
        raise ProfileError(
            f"the profile on {device}",
            "torch.profiler recorded no kernel",
            "make sure that CUPTI may be used (no other profiler, and permission for performance counters)"
            if cuda
            else "profile a model that computes something",
        )
    rows = (Kernel(n, _kind(n), len(times) / calls, sum(times) / calls) for n, times in launches.items())
    return tuple(sorted(rows, key=lambda kernel: -kernel.us))


def _on_gpu(event: Any) -> tuple[str, float] | None:
    """A kernel, copy or fill on the device; not the ranges that the profiler draws around them."""
    if event.device_type != DeviceType.CUDA or event.is_user_annotation:
        return None
    return event.name, event.time_range.elapsed_us()


def _on_cpu(event: Any) -> tuple[str, float] | None:
    """The own time of an operator, or of inductor's kernels."""
    if event.device_type != DeviceType.CPU or event.is_user_annotation:
        return None
    if _COMPILED.match(event.name):
        return "inductor's fused kernels", event.self_cpu_time_total
    return (event.name, event.self_cpu_time_total) if _OPERATOR.match(event.name) else None


def _kind(name: str) -> Kind:
    return "elementwise" if name == "inductor's fused kernels" else kind_of(name)
