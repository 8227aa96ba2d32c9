"""What layers run on a GPU, built and loaded before the first request needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseflow.runtime import PackedWeight, Policy
from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.gpu import plans

_STAND_IN = 1.3
"""Plans for M's a factor of this apart leave no M without one: `runtime.gpu.plans.prepare`."""


@dataclass(frozen=True)
class Ready:
    """A layer that is to be ready.

    Attributes:
        weight: its weight, on a GPU.
        policy: how it runs.
        biased: whether its product has a bias.
        run: runs it over rows ``[M, K]``.
    """

    weight: PackedWeight
    policy: Policy
    biased: bool
    run: Callable[[Tensor], object]


def make_ready(layers: Iterable[Ready], captured: Sequence[int], largest: int, *, run: bool = True) -> None:
    """Build plans for all numbers of rows that steps may have, and load kernels.

    A graph keeps what ran when it was captured, so plans for those sizes are waited for, and others near
    enough to stand in for any. The rest is built while the engine starts.

    Args:
        layers: of which one of each shape is taken.
        captured: the sizes of CUDA graphs.
        largest: the most rows of a step.
        run: whether each layer runs once by each of its ways. What launches a kernel first waits until it is
            loaded.
    """
    kinds: dict[tuple[int, int, bool], Ready] = {}
    for layer in layers:
        if layer.weight.device.type == "cuda" and layer.weight.format.pattern == "2:4":
            kinds.setdefault((*layer.weight.shape, layer.biased), layer)
    for layer in kinds.values():
        _build(layer, [*captured, *_ladder(captured, largest), *_bounds(layer.policy, largest)], wait=True)
    for layer in kinds.values() if run else ():
        _run_once(layer, largest)
    for layer in kinds.values():
        _build(layer, plans.rows_of_plans(largest, layer.weight.tensors[0].dtype), wait=False)


def _ladder(captured: Sequence[int], largest: int) -> Iterator[int]:
    m = max(captured, default=1)
    while (m := int(m * _STAND_IN) + 1) < largest:
        yield m
    yield largest


def _bounds(policy: Policy, largest: int) -> Iterator[int]:
    """Yield the first and the last M of each range: one plan's rows may belong to two of them."""
    for way in policy.ranges:
        if way.m_min <= largest:
            yield way.m_min
            yield min(largest, way.m_max or largest)


def _build(layer: Ready, sizes: Sequence[int], *, wait: bool) -> None:
    weight = layer.weight
    values, positions = weight.tensors[:2]
    device = DeviceWeight(values, positions, weight.in_features)
    # Products in fp8 add the bias after the scales, in a kernel of their own.
    fused = layer.biased and weight.multiplied == weight.dtype
    plans.prepare(device, sizes, layer.policy.to_ints(), bias=fused, wait=wait)


def _run_once(layer: Ready, largest: int) -> None:
    weight = layer.weight
    for rows in (way.m_min for way in layer.policy.ranges if way.m_min <= largest):
        layer.run(torch.zeros(rows, weight.in_features, dtype=weight.dtype, device=weight.device))
