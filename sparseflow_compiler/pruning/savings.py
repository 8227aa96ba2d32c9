"""Savings of running layers sparse: measured microseconds if available, else weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparseflow.pruning.linear_layers import Layer
from sparseflow.runtime import checks
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import names
from sparseflow.runtime.pattern import Pattern
from sparseflow.runtime.products import which
from sparseflow.support.progress import Step

Shape = tuple[int, int]


@dataclass(frozen=True)
class Savings:
    """The saving of each layer.

    Attributes:
        by_layer: by name, ≥ 0, in `unit`.
        unit: "µs" of one call at each of the stated M's, together, or "weights" where nothing was measured.
        note: remarks for the caller, in full sentences; may be empty.
    """

    by_layer: Mapping[str, float]
    unit: str
    note: str


def savings(layers: Sequence[Layer], rows: Sequence[int], step: Step, pattern: str = "2:4") -> Savings:
    """Return the layers' savings by this machine's tables; CPUs are measured if they lack a shape.

    GPUs aren't: the model takes their memory while it is pruned, and `sparseflow.tune` can be called before.

    Args:
        layers: on one device.
        rows: the M's at which the layers will run; the nearest measured M stands for each.
        step: called while measuring.
        pattern: the name of the layers' pattern, which is that of its exact format.
    """
    found: dict[tuple[torch.dtype, torch.device], list[Shape]] = {}
    for layer in layers:
        shapes = found.setdefault((layer.weight.dtype, layer.weight.device), [])
        shapes += [layer.shape] if layer.shape not in shapes else []
    saved: dict[tuple[torch.dtype, Shape], float] = {}
    for (dtype, device), shapes in found.items():
        if pattern not in names():
            continue
        policies = which.policies(shapes, dtype, device, format=pattern, tune="off", progress=step)
        for shape, policy in policies.items():
            times = _dense_us(shape, dtype, device, pattern)
            if isinstance(policy, Policy) and policy.pays and times:
                saved[dtype, shape] = sum(_saved_us(policy, times, m) for m in rows)
    by_layer = {layer.name: saved.get((layer.weight.dtype, layer.shape), 0.0) for layer in layers}
    if any(by_layer.values()):
        return Savings(by_layer, "µs", "")
    return Savings(
        {layer.name: layer.weight.numel() * (1 - Pattern.of(pattern).density) for layer in layers},
        "weights",
        "No layer was measured to be faster sparse on this machine: layers are weighed by the weights that "
        "pruning drops instead.",
    )


def _dense_us(shape: Shape, dtype: torch.dtype, device: torch.device, format: str) -> dict[int, float]:
    """Return the dense layer's time at each measured M."""
    name = checks.dtype_name(dtype)
    if device.type == "cuda":
        from sparseflow.runtime.tuning.gpu_identity import GpuMachine
        from sparseflow.runtime.tuning.gpu_table import lookup

        found = lookup(name, *shape, GpuMachine.here(device), pattern=format)
        return {point.m: point.dense_us for point in found}
    from sparseflow.runtime.dispatch import Table

    return {row.m: row.dense_us for row in Table(format=format).layer(name, *shape)}


def _saved_us(policy: Policy, dense_us: Mapping[int, float], m: int) -> float:
    at, speedup = min(policy.measured, key=lambda point: abs(math.log(point[0] / m)))
    return max(0.0, dense_us[at] * (1 - 1 / speedup))
