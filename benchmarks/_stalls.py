"""Where the host time of slow calls goes: the operators and CUDA runtime calls inside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

WORST, PARTS = 4, 6
LONG_US = 200.0  # of what other threads did meanwhile, only this is told


def explain(calls: Mapping[str, Callable[[], object]]) -> list[str]:
    """Make each call once, the device idle before it, and take the slowest apart.

    Args:
        calls: by names that no operator has.

    Returns:
        Lines: a slow call with its milliseconds, below it the longest operators and runtime calls inside it,
        with the microseconds from its start, and the long ones of other threads at the same time. The
        profiler itself costs some microseconds for each.
    """
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for name, call in calls.items():
            torch.cuda.synchronize()
            with record_function(name):
                call()
        torch.cuda.synchronize()
    events: list[Any] = [e for e in profiler.events() or [] if e.device_type == torch.profiler.DeviceType.CPU]
    seen = sorted((e for e in events if e.name in calls), key=_us, reverse=True)[:WORST]
    return [line for call in seen for line in _taken_apart(call, [e for e in events if e.name not in calls])]


def _us(event: Any) -> float:
    return float(event.time_range.end - event.time_range.start)


def _taken_apart(call: Any, events: list[Any]) -> list[str]:
    start, end = call.time_range.start, call.time_range.end
    during = [e for e in events if e.time_range.start < end and e.time_range.end > start]
    inside = [e for e in during if e.thread == call.thread and e.time_range.start >= start]
    beside = [e for e in during if e.thread != call.thread and _us(e) >= LONG_US]
    lines = [f"{call.name}: {_us(call) / 1e3:.3f} ms"]
    for where, found in (("", inside), ("meanwhile in another thread: ", beside)):
        for e in sorted(found, key=_us, reverse=True)[:PARTS]:
            kernels = ", ".join(kernel.name[:60] for kernel in e.kernels)
            lines.append(
                f"    {where}+{e.time_range.start - start:.0f} µs {e.name} {_us(e):.0f} µs {kernels}"
            )
    return lines
