"""Contextual MLPs without a predictor: the activations, computed for all neurons, select them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import ops
from sparseflow.runtime.contextual import many_rows, portable
from sparseflow.runtime.contextual.ops import contextual_mlp, contextual_select

RULE = "gate"

_SCHEMA = (
    "contextual_mlp_by_gate(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_bias, "
    "Tensor? up_bias, Tensor? down_bias, float threshold, str activation, int m_max, "
    "Tensor? up_values=None, Tensor? up_positions=None, int[] up_policy=[], Tensor? down_values=None, "
    "Tensor? down_positions=None, int[] down_policy=[]) -> Tensor"
)


@dataclasses.dataclass(frozen=True)
class GateThreshold:
    """The rule that selects neurons whose |act(x · gateᵀ + gate_bias)| is above a threshold.

    In an MLP without a gate it is that of up, and only down is read sparsely.

    Attributes:
        parameter: the threshold, finite.
    """

    parameter: float
    rule: str = dataclasses.field(default=RULE, init=False)
    rank: int = dataclasses.field(default=0, init=False)
    nbytes: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if not abs(self.parameter) < float("inf"):
            raise ArgumentError("parameter", f"expected a finite number, got {self.parameter}")

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> GateThreshold:
        """Return itself: it has no tensors."""
        return self


def _by_gate(
    x: Tensor,
    gate: Tensor | None,
    up: Tensor,
    down_t: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    threshold: float,
    activation: str,
    m_max: int,
    *packed: object,
) -> Tensor:
    weights = (gate, up, down_t, None, None, None, gate_bias, up_bias, down_bias)
    if x.numel() > m_max * x.shape[-1]:
        every_neuron: Callable[..., Tensor] = many_rows.every_neuron
        return every_neuron(x, *weights, activation, *packed)
    driver, bias = (up, up_bias) if gate is None else (gate, gate_bias)
    active = portable.ACTIVATIONS[activation](F.linear(x, driver, bias)).reshape(-1, up.shape[0])
    neurons, count = contextual_select(active.abs().float(), "threshold", threshold)
    result: Tensor = contextual_mlp(x, *weights, neurons, count, activation)
    return result


def _fake(x: Tensor, gate: Tensor | None, up: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


_LIBRARY = ops.operator_library("sparseflow", "FRAGMENT")
_LIBRARY.define(_SCHEMA)
contextual_mlp_by_gate = torch.ops.sparseflow.contextual_mlp_by_gate.default
ops.LIBRARY.impl("contextual_mlp_by_gate", _by_gate, "CompositeExplicitAutograd")
ops.register_fake(contextual_mlp_by_gate, _fake)
