"""Savings of running layers sparse: measured microseconds if available, else bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sparseflow.pruning.linear_layers import Layer
from sparseflow.runtime import checks
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import find, names
from sparseflow.runtime.pattern import Pattern
from sparseflow.runtime.products import which
from sparseflow.support.progress import Step

Shape = tuple[int, int]
Unit = Literal["µs", "bytes"]
ByPattern = Mapping[str, float]


@dataclass(frozen=True)
class Savings:
    """The saving of each layer in each pattern.

    Attributes:
        by_layer: by name, then by pattern; ≥ 0, in `unit`.
        unit: "µs" of one call at each of the stated M's, together, or "bytes" of the packed weight.
        note: remarks for the caller, in full sentences; may be empty.
    """

    by_layer: Mapping[str, ByPattern]
    unit: Unit
    note: str

    @property
    def most(self) -> float:
        """What all layers save together, each in the pattern that saves most."""
        return sum(max(saved.values()) for saved in self.by_layer.values())


def savings(
    layers: Sequence[Layer], rows: Sequence[int], step: Step, patterns: Sequence[str] = ("2:4",)
) -> Savings:
    """Return the layers' savings by this machine's tables; CPUs are measured if they lack a shape.

    GPUs aren't: the model takes their memory while it is pruned, and `sparseflow.tune` can be called before.
    Time can't be weighed against bytes: if a pattern has no measurement, all patterns count by their bytes.

    Args:
        layers: on one device.
        rows: the M's at which the layers will run; the nearest measured M stands for each.
        step: called while measuring.
        patterns: names of patterns; the exact format of the same name stands for each.
    """
    timed = {pattern: _timed(layers, rows, step, pattern) for pattern in patterns}
    unmeasured = [pattern for pattern, found in timed.items() if found is None]
    by_layer = {
        layer.name: {
            pattern: found.get((layer.weight.dtype, layer.shape), 0.0)
            for pattern, found in timed.items()
            if found is not None
        }
        for layer in layers
    }
    if not unmeasured and any(any(saved.values()) for saved in by_layer.values()):
        return Savings(by_layer, "µs", "")
    return bytes_saved(layers, patterns, _why_bytes(unmeasured) if layers else "")


def bytes_saved(layers: Sequence[Layer], patterns: Sequence[str], note: str = "") -> Savings:
    """Return the bytes that packing saves of each layer."""
    by_layer = {
        layer.name: {
            pattern: float(max(0, dense_bytes(layer) - packed_bytes(layer, pattern))) for pattern in patterns
        }
        for layer in layers
    }
    return Savings(by_layer, "bytes", note)


def dense_bytes(layer: Layer) -> int:
    """Return the bytes of a layer's dense weight."""
    return layer.weight.numel() * layer.weight.element_size()


def packed_bytes(layer: Layer, pattern: str) -> int:
    """Return the bytes of a layer's weight in a pattern's exact format; without one, of its values."""
    if pattern in names():
        return find(pattern).nbytes(*layer.shape, f"f{8 * layer.weight.element_size()}")
    return math.ceil(dense_bytes(layer) * Pattern.of(pattern).density)


def _why_bytes(unmeasured: Sequence[str]) -> str:
    if unmeasured:
        return (
            f"No measurement of {', '.join(unmeasured)} exists on this machine: layers are weighed by the "
            "bytes that packing saves instead."
        )
    return (
        "No layer was measured to be faster sparse on this machine: layers are weighed by the bytes that "
        "packing saves instead."
    )


def _timed(
    layers: Sequence[Layer], rows: Sequence[int], step: Step, pattern: str
) -> dict[tuple[torch.dtype, Shape], float] | None:
    """Return the µs that each dtype and shape saves in a pattern; None if no shape was measured."""
    if pattern not in names():
        return None
    found: dict[tuple[torch.dtype, torch.device], list[Shape]] = {}
    for layer in layers:
        shapes = found.setdefault((layer.weight.dtype, layer.weight.device), [])
        shapes += [layer.shape] if layer.shape not in shapes else []
    saved: dict[tuple[torch.dtype, Shape], float] = {}
    measured = False
    for (dtype, device), shapes in found.items():
        policies = which.policies(shapes, dtype, device, format=pattern, tune="off", progress=step)
        for shape, policy in policies.items():
            if not isinstance(policy, Policy) or not policy.measured:
                continue
            measured = True
            times = _dense_us(shape, dtype, device, pattern) if policy.pays else {}
            if times:
                saved[dtype, shape] = sum(_saved_us(policy, times, m) for m in rows)
    return saved if measured else None


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
