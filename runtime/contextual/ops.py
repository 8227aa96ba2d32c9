"""Complete the operators ``contextual_*``: fake kernels, refusal of gradients and plain torch versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from sparseflow.runtime import ops
from sparseflow.runtime.contextual import many_rows, portable

contextual_mlp = torch.ops.sparseflow.contextual_mlp.default
contextual_scores = torch.ops.sparseflow.contextual_scores.default
contextual_select = torch.ops.sparseflow.contextual_select.default
contextual_mlp_predicted = torch.ops.sparseflow.contextual_mlp_predicted.default
contextual_mlp_auto = torch.ops.sparseflow.contextual_mlp_auto.default

# x, gate, up, down_t, three scales and three biases.
_MLP_ARGUMENTS = 10
# pred_a, pred_b, pred_bias and two scales.
_PREDICTOR_ARGUMENTS = 5
# Those without x, plus the rule, its parameter and the activation.
_PREDICTED_ARGUMENTS = _MLP_ARGUMENTS + _PREDICTOR_ARGUMENTS + 2


def _predicted(x: Tensor, *args: object) -> Tensor:
    weights, rest = args[: _MLP_ARGUMENTS - 1], args[_MLP_ARGUMENTS - 1 :]
    predictor, (rule, parameter, activation, *per_row) = (
        rest[:_PREDICTOR_ARGUMENTS],
        rest[_PREDICTOR_ARGUMENTS:],
    )
    neurons, count = contextual_select(contextual_scores(x, *predictor), rule, parameter, *per_row)
    result: Tensor = contextual_mlp(x, *weights, neurons, count, activation)
    return result


def _auto(x: Tensor, *args: Any) -> Tensor:
    # The dispatcher omits arguments that equal their defaults.
    predicted, (m_max, *packed) = args[:_PREDICTED_ARGUMENTS], args[_PREDICTED_ARGUMENTS:]
    if x.numel() <= m_max * x.shape[-1]:
        result: Tensor = contextual_mlp_predicted(x, *predicted)
        return result
    every_neuron: Callable[..., Tensor] = many_rows.every_neuron
    return every_neuron(x, *args[: _MLP_ARGUMENTS - 1], predicted[-1], *packed)


def _fake_mlp(x: Tensor, gate: Tensor | None, up: Tensor, down_t: Tensor, *_: object) -> Tensor:
    ops.check(
        x.dim() >= 1 and up.dim() == 2 and x.shape[-1] == up.shape[1],
        lambda: f"sparseflow::contextual_mlp: x must be [..., {up.shape[-1]}], got {list(x.shape)}",
    )
    for other in (gate, down_t):
        ops.check(
            other is None or other.shape == up.shape,
            lambda: f"sparseflow::contextual_mlp: gate and down_t must have the shape of up {list(up.shape)}",
        )
    return x.new_empty(x.shape)


def _fake_scores(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
) -> Tensor:
    rows = 1
    for size in x.shape[:-1]:
        rows = rows * size
    return x.new_empty((rows, b.shape[0]), dtype=torch.float32)


def _fake_select(scores: Tensor, rule: str, parameter: float, per_row: bool = False) -> tuple[Tensor, Tensor]:
    rows, neurons = scores.shape
    lists = (rows,) if per_row else ()
    count = rows if per_row else 1
    return (
        scores.new_empty((*lists, neurons), dtype=torch.int32),
        scores.new_empty((count,), dtype=torch.int32),
    )


def _register() -> None:
    fakes: dict[OpOverload, Callable[..., object]] = {
        contextual_mlp: _fake_mlp,
        contextual_scores: _fake_scores,
        contextual_select: _fake_select,
        contextual_mlp_predicted: _fake_mlp,
        contextual_mlp_auto: _fake_mlp,
    }
    for op, fake in fakes.items():
        ops.register_fake(op, fake)
    for name in ("contextual_mlp", "contextual_scores", "contextual_select"):
        ops.LIBRARY.impl(
            name, getattr(portable, name), "CompositeExplicitAutograd"
        )  # the CPU has native kernels
    ops.LIBRARY.impl("contextual_mlp_predicted", _predicted, "CompositeExplicitAutograd")
    ops.LIBRARY.impl("contextual_mlp_auto", _auto, "CompositeExplicitAutograd")


_register()
