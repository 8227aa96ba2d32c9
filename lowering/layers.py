"""What a sparse layer that was not lowered yet computes, with the weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "relu": (_ATEN.relu.default, {}),
    "gelu": (_ATEN.gelu.default, {}),
    "gelu_tanh": (_ATEN.gelu.default, {"approximate": "tanh"}),
    "silu": (_ATEN.silu.default, {}),
}


def dense_layer(graph: fx.Graph, operands: Sequence[fx.Node | None], epilogue: str) -> fx.Node:
    """Add `y = act(x · Wᵀ + bias) (+ residual)` to a graph.

    Args:
        graph: the graph.
        operands: x `[…, K]`, weight `[N, K]`, bias `[N]` or None, residual `[…, N]` or None.
        epilogue: one of none, relu, gelu, gelu_tanh, silu.
    """
    x, weight, bias, residual = operands
    y = graph.call_function(_ATEN.linear.default, (x, weight, bias))
    if epilogue in _ACTIVATIONS:
        activation, options = _ACTIVATIONS[epilogue]
        y = graph.call_function(activation, (y,), options)
    return y if residual is None else graph.call_function(_ATEN.add.Tensor, (y, residual))
