"""Policies from this machine's tables, without measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from sparseflow.runtime import kernels
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch import Policy, Table
from sparseflow.runtime.dispatch.call import call_us
from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.formats import find
from sparseflow.runtime.kernels import Problem
from sparseflow.runtime.products.which import has_one_way, settled
from sparseflow.support.arguments import Memory

Shape = tuple[int, int]


def known_policies(
    shapes: Iterable[Shape],
    dtype: torch.dtype,
    device: torch.device,
    *,
    memory: Memory,
    format: str,
) -> dict[Shape, Policy | str]:
    """Return the result of `which.policies` for those shapes that need no measurement.

    Args:
        shapes: (N, K) of every layer.
        dtype: the dtype that is multiplied.
        device: where the layers run.
        memory: whether packed layers keep their dense weight.
        format: the name of the packed weights' format.
    """
    if has_one_way(format, device.type):
        return {}
    found: dict[Shape, Policy | str] = {}
    able = []
    count = Counter(shapes)
    for shape in count:
        problem = Problem(dtype_name(dtype), *shape, device=str(device), format=format)
        reason = kernels.refusal(problem)
        if reason is None:
            able.append(shape)
        else:
            found[shape] = reason
    if able:
        in_tables = _on_gpu if device.type == "cuda" else _on_cpu
        policies = in_tables(able, dtype, device, memory, format)
        found |= settled(policies, count, dtype, device, format) if memory == "auto" else policies
    return found


def _on_gpu(
    shapes: Iterable[Shape], dtype: torch.dtype, device: torch.device, memory: Memory, format: str
) -> dict[Shape, Policy | str]:
    from sparseflow.runtime.dispatch.thresholds import choose_by_thresholds
    from sparseflow.runtime.tuning.gpu_identity import GpuMachine
    from sparseflow.runtime.tuning.gpu_table import lookup
    from sparseflow.runtime.tuning.policies import timed  # here, because it imports the tuner

    machine, name = GpuMachine.here(device), dtype_name(dtype)
    pattern = find(format).pattern
    points = {shape: lookup(name, *shape, machine, pattern=pattern) for shape in shapes}
    return {
        shape: choose_by_thresholds(map(timed, found), memory) for shape, found in points.items() if found
    }


def _on_cpu(
    shapes: Iterable[Shape], dtype: torch.dtype, device: torch.device, memory: Memory, format: str
) -> dict[Shape, Policy | str]:
    table, name = Table(format=format), dtype_name(dtype)
    rows = {shape: table.layer(name, *shape) for shape in shapes}
    return {shape: choose(found, memory, call_us=call_us()) for shape, found in rows.items() if found}
