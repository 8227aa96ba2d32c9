"""The policies of layers on a GPU: from the tuned tables, and by tuning what they lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sparseflow.runtime import gpu
from sparseflow.runtime.backends import Backend, Choice, Memory
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.thresholds import Timed, choose_by_thresholds
from sparseflow.runtime.tuning.machine import GpuMachine
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.runtime.tuning.sweep import refusal
from sparseflow.runtime.tuning.table import lookup

Shape = tuple[int, int]
Progress = Callable[[int, int, str], None]

TUNABLE = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
"""Dtypes that layers on a GPU may be packed in."""

FP8_GPU = (8, 9)
"""Compute capability from which on tensor cores multiply fp8."""


def gpu_policies(
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    device: torch.device,
    *,
    memory: Memory = "compressed",
    tune: bool = False,
    always: bool = False,
    progress: Progress | None = None,
) -> dict[Shape, Policy | str]:
    """What the tables justify for each layer shape.

    Args:
        shapes: (N, K), each once.
        dtype: of the packed weights; in float8_e4m3fn every figure is over the dense product in fp8.
        device: a CUDA device.
        memory: whether packed layers keep their dense weight.
        tune: measure what neither the user's table nor a shipped one has.
        always: run every shape that can sparse at every M, with the best algorithm that is known, and the
            library's first where none is.
        progress: called with (points done, points in all, text) while tuning.

    Returns:
        For each shape a policy, or why such layers stay dense.
    """
    reasons = {shape: why for shape in shapes if (why := _refusal(shape, dtype, device))}
    able = [shape for shape in shapes if shape not in reasons]
    if tune and able:
        _tune_missing(able, dtype, device, progress)
    found = {shape: _policy(shape, dtype, device, memory, always) for shape in able}
    return {shape: reasons.get(shape) or found[shape] for shape in shapes}


def _refusal(shape: Shape, dtype: torch.dtype, device: torch.device) -> str | None:
    if dtype not in TUNABLE:
        return f"on GPUs sparse layers are bfloat16 or float16, not {dtype_name(dtype)}"
    return refusal(*shape, dtype_name(dtype)) or gpu.unusable(device) or _no_fp8(dtype, device)


def _no_fp8(dtype: torch.dtype, device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if dtype != torch.float8_e4m3fn or capability >= FP8_GPU:
        return None
    return "{} is sm_{}{}, and tensor cores for fp8 begin with sm_{}{}".format(
        torch.cuda.get_device_name(device), *capability, *FP8_GPU
    )


def _tune_missing(
    shapes: Sequence[Shape], dtype: torch.dtype, device: torch.device, progress: Progress | None
) -> None:
    from sparseflow.runtime.tuning.tune import tune

    machine = GpuMachine.here(device)
    missing = [shape for shape in shapes if not lookup(dtype_name(dtype), *shape, machine)]
    if missing:
        tune(missing, [dtype], device=device, progress=progress)


def _policy(
    shape: Shape, dtype: torch.dtype, device: torch.device, memory: Memory, always: bool
) -> Policy | str:
    points = lookup(dtype_name(dtype), *shape, GpuMachine.here(device))
    if always:
        return _sparse_everywhere(points)
    if not points:
        gpu_name = torch.cuda.get_device_name(device)
        return (
            f"no table has {shape[0]}×{shape[1]} {dtype_name(dtype)} for {gpu_name}; "
            "tune it: sf.compile(model, tune=True) or `sparseflow tune`"
        )
    return choose_by_thresholds([timed(point) for point in points], memory)


def timed(point: TunedPoint) -> Timed:
    """A tuned point as the rule of thresholds reads it."""
    ways = {Choice(Backend[c.backend.upper()], c.algorithm, c.split_k): c.us for c in point.candidates}
    return Timed(point.m, point.dense_us, point.unpacked_us, ways)


def _sparse_everywhere(points: Sequence[TunedPoint]) -> Policy:
    by_m = {point.m: timed(point) for point in sorted(points, key=lambda point: point.m)}
    best = [(m, way[0]) for m, point in by_m.items() if (way := point.best())]
    first = best[0][1] if best else Choice(Backend.CUSPARSELT)
    starts = [(1, first), *((m, choice) for m, choice in best if m > 1)]

    def speedup(m: int, choice: Choice) -> float:
        return by_m[m].dense / by_m[m].sparse[choice]

    return Policy.of(starts, [m for m, _ in best], speedup)
