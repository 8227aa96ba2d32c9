"""The points that a GPU's tables lack for some layers, and how a compilation has them measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from sparseflow.errors import TuningError
from sparseflow.runtime.dispatch.store import DispatchTableWarning
from sparseflow.runtime.tuning import fill_gpu_table, quick
from sparseflow.runtime.tuning.gpu_identity import GpuMachine
from sparseflow.runtime.tuning.gpu_table import lookup
from sparseflow.runtime.tuning.point import Effort, TunedPoint
from sparseflow.runtime.tuning.sweep import DEFAULT_M, QUICK_M, REACH
from sparseflow.runtime.tuning.task import Task
from sparseflow.support.user_warnings import warn

Shape = tuple[int, int]
Progress = Callable[[int, int, str], None]

LATER = "compile again, or run `sparseflow tune`"

_LOST: dict[GpuMachine, str] = {}
"""Why quick tuning failed in this process, by GPU; it isn't tried again."""

_REFUSED: defaultdict[GpuMachine, dict[Task, str]] = defaultdict(dict)
"""The points that can't be measured, and why, by GPU; this process asks for them once."""


def measure_all(
    shapes: Sequence[Shape],
    dtype: str,
    device: torch.device,
    machine: GpuMachine,
    progress: Progress | None,
    pattern: str = "2:4",
) -> dict[Shape, str]:
    """Tune the points that weren't tuned fully, however long it takes.

    Returns:
        The shapes with points that can't be measured, and why.

    Raises:
        TuningError: the measuring process can't be kept alive.
    """
    tasks = lacking(shapes, dtype, machine, "full", pattern)
    if not tasks:
        return {}
    result = fill_gpu_table.measure(tasks, device=device, progress=progress)
    return _by_shape(dict(result.skipped))


def measure_quickly(
    shapes: Sequence[Shape],
    dtype: str,
    device: torch.device,
    machine: GpuMachine,
    progress: Progress | None,
    pattern: str = "2:4",
) -> dict[Shape, str]:
    """Tune the points that tables lack, trying the candidates that the cost model ranks first.

    It takes `quick.seconds_for` the shapes at most. Every measured point is saved; the next call measures
    those for which no time was left.

    Returns:
        The shapes with points that weren't measured, and why.
    """
    refused = _REFUSED[machine]
    tasks = [task for task in lacking(shapes, dtype, machine, "quick", pattern) if task not in refused]
    alike = {task: why for task, why in refused.items() if (task.dtype, task.pattern) == (dtype, pattern)}
    known = _by_shape(alike)
    if not tasks:
        return known
    if machine not in _LOST:
        return known | _measure(tasks, device, machine, progress)
    return known | _by_shape(dict.fromkeys(tasks, _LOST[machine]))


def _measure(
    tasks: Sequence[Task], device: torch.device, machine: GpuMachine, progress: Progress | None
) -> dict[Shape, str]:
    seconds = quick.seconds_for(len({(task.n, task.k) for task in tasks}))
    try:
        result = fill_gpu_table.measure(
            tasks, effort="quick", device=device, progress=progress, deadline=seconds
        )
    except TuningError as error:
        _LOST[machine] = f"{error.rule.partition(chr(10))[0]}; see what `sparseflow tune` says"
        return _by_shape(dict.fromkeys(tasks, _LOST[machine]))
    _REFUSED[machine].update(result.skipped)
    if not result.saved:
        _LOST[machine] = f"{result.path} can't be written, so that nothing measured is kept"
        return _by_shape(dict.fromkeys(tasks, _LOST[machine]))
    left = f"quick tuning ended after its {seconds:g} s; {LATER}"
    if result.remaining:
        points = f"{len(result.remaining)} of {len(tasks)} points"
        warn(f"{machine.gpu}: {points} are not tuned yet, {left}", DispatchTableWarning)
    return _by_shape(dict(result.skipped) | dict.fromkeys(result.remaining, left))


def lacking(
    shapes: Iterable[Shape], dtype: str, machine: GpuMachine, effort: Effort, pattern: str = "2:4"
) -> list[Task]:
    """Return the points that tuning must measure for layers, in the order of measuring.

    A fully tuned point stands for all M's up to `REACH` times larger or smaller.
    """
    wanted = DEFAULT_M if effort == "full" else QUICK_M
    tasks = [
        Task(dtype, *shape, m, pattern)
        for shape in shapes
        for points in [lookup(dtype, *shape, machine, pattern=pattern)]
        for m in wanted
        if not any(_stands_for(point, m, effort) for point in points)
    ]
    return quick.breadth_first(tasks) if effort == "quick" else tasks


def _stands_for(point: TunedPoint, m: int, effort: Effort) -> bool:
    if point.effort == "full":
        return m <= REACH * point.m and point.m <= REACH * m
    return effort == "quick" and point.m == m


def _by_shape(reasons: Mapping[Task, str]) -> dict[Shape, str]:
    return {(task.n, task.k): why for task, why in reasons.items()}
