"""Record the kernels of a call with torch's profiler."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from sparseflow.errors import ProfileError
from sparseflow.profiling.kernel_kinds import Kind, kind_of
from sparseflow.support.native_lines import native_lines_without

_OPERATOR = re.compile(r"\w+::\w")
_COMPILED = re.compile(r"## Call CompiledFxGraph")
"""The event of a compiled graph; its own time is that of inductor's C++ kernels, which have no events."""
_OWN_NEWS = r"(USDT|STAGE):|ERROR:.* DeviceProperties\.cpp:\d+\] gpuGetDeviceCount failed"
"""Messages of torch's profiler about itself on stderr."""
_ATTEMPTS = 4
_MARGIN = 0.01
"""Seconds without work at both ends of a recording on a GPU."""

Launch = tuple[float, float]
"""The time of a launch, and its duration in microseconds."""
Launches = Mapping[str, Sequence[Launch]]


@dataclass(frozen=True)
class Kernel:
    """All launches of a kernel, or of an operator on the CPU.

    Attributes:
        name: the profiler's name.
        kind: the kind of work.
        calls: launches in one call of the model.
        us: microseconds in one call of the model; on the CPU excluding nested operators.
    """

    name: str
    kind: Kind
    calls: float
    us: float


def kernels(
    run: Callable[[], object],
    device: torch.device,
    calls: int,
    reset: Callable[[], object] = lambda: None,
) -> tuple[Kernel, ...]:
    """Profile several calls and return their kernels, the longest first, each launch counted once.

    Args:
        run: a warmed-up call of the model, which always launches the same kernels.
        device: where it runs.
        calls: the number of calls to record.
        reset: called before the calls, and before the one that warms the profiler up.

    Raises:
        ProfileError: the profiler saw no kernel.
    """
    best: Launches = {}
    for _ in range(_ATTEMPTS):
        found = _launches(_record(run, device, calls, reset), device)
        if _count(found) > _count(best) or is_complete(found, calls):
            best = found
        if is_complete(found, calls):
            break
    if not sum(us for launches in best.values() for _, us in launches):
        raise ProfileError(
            f"the profile on {device}",
            "torch.profiler recorded no kernel",
            "make sure that CUPTI may be used (no other profiler, and permission for performance counters)"
            if device.type == "cuda"
            else "profile a model that computes something",
        )
    rows = (
        Kernel(name, _kind(name), len(launches) / calls, per_call(launches, calls))
        for name, launches in best.items()
    )
    return tuple(sorted(rows, key=lambda kernel: -kernel.us))


def is_complete(launches: Launches, calls: int) -> bool:
    """Return whether each kernel has equally many launches in every call, so none were lost."""
    return bool(launches) and all(len(each) % calls == 0 for each in launches.values())


def per_call(launches: Sequence[Launch], calls: int) -> float:
    """Return a kernel's microseconds in one call: the sum of its launches' medians over calls.

    Another process on the GPU can delay single launches. If launches were lost, they can't be matched, and
    the mean is used.
    """
    taken = [us for _, us in sorted(launches)]
    each, rest = divmod(len(taken), calls)
    if rest:
        return sum(taken) / calls
    return sum(statistics.median(taken[place::each]) for place in range(each))


def _record(
    run: Callable[[], object], device: torch.device, calls: int, reset: Callable[[], object]
) -> Iterable[FunctionEvent]:
    """Record the profiler's events of some calls.

    The profiler drops events at the edges of its window, as host and device clocks differ, and while it
    starts up; so one call runs unrecorded before, and the device is idle at both ends.
    """
    cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=1, repeat=1)

    def settle() -> None:
        if cuda:
            torch.cuda.synchronize(device)
            time.sleep(_MARGIN)

    recorder = torch.profiler.profile(activities=[activity], schedule=schedule, acc_events=True)
    with native_lines_without(_OWN_NEWS), recorder as profiler:
        reset()
        run()
        reset()
        settle()
        profiler.step()
        settle()
        for _ in range(calls):
            run()
        settle()
        profiler.step()
    events: Iterable[FunctionEvent] = profiler.events()
    return events


def _launches(events: Iterable[FunctionEvent], device: torch.device) -> Launches:
    """Return each kernel's launch times and durations by name."""
    launches: dict[str, list[Launch]] = {}
    for event in events:
        found = _on_gpu(event) if device.type == "cuda" else _on_cpu(event)
        if found is not None:
            launches.setdefault(found[0], []).append((event.time_range.start, found[1]))
    return launches


def _count(launches: Launches) -> int:
    return sum(map(len, launches.values()))


def _on_gpu(event: FunctionEvent) -> tuple[str, float] | None:
    """Return name and time of a kernel, copy or fill on the device; None for annotations."""
    if event.device_type != DeviceType.CUDA or event.is_user_annotation:
        return None
    return event.name, event.time_range.end - event.time_range.start


def _on_cpu(event: FunctionEvent) -> tuple[str, float] | None:
    """Return the self time of an operator, or of inductor's kernels."""
    if event.device_type != DeviceType.CPU or event.is_user_annotation:
        return None
    if _COMPILED.match(event.name):
        return "inductor's fused kernels", event.self_cpu_time_total
    return (event.name, event.self_cpu_time_total) if _OPERATOR.match(event.name) else None


def _kind(name: str) -> Kind:
    return "elementwise" if name == "inductor's fused kernels" else kind_of(name)
