"""What a sparse layer that was not lowered yet computes, with the weights as they are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from sparseflow.dialect.linear import GATES

_ATEN = torch.ops.aten
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "relu": (_ATEN.relu.default, {}),
    "gelu": (_ATEN.gelu.default, {}),
    "gelu_tanh": (_ATEN.gelu.default, {"approximate": "tanh"}),
    "silu": (_ATEN.silu.default, {}),
}


def dense_layer(graph: fx.Graph, operands: Sequence[fx.Node | None], epilogue: str) -> fx.Node:
    """Add `y = act(x · Wᵀ + bias) (+ residual)`, or with a gate `y = act(g) * u` for its halves, to a graph.

    Args:
        graph: the graph.
        operands: x `[…, K]`, weight `[N, K]`, bias `[N]` or None, residual `[…, N]` or None.
        epilogue: one of `sparseflow.dialect.linear.EPILOGUES`.
    """
    x, weight, bias, residual = operands
    y = graph.call_function(_ATEN.linear.default, (x, weight, bias))
    if epilogue in GATES:
        halves = graph.call_function(_ATEN.chunk.default, (y, 2, -1))
        gate, up = (graph.call_function(operator.getitem, (halves, at)) for at in (0, 1))
        return graph.call_function(_ATEN.mul.Tensor, (_activated(graph, gate, GATES[epilogue]), up))
    y = _activated(graph, y, epilogue)
    return y if residual is None else graph.call_function(_ATEN.add.Tensor, (y, residual))


def _activated(graph: fx.Graph, y: fx.Node, epilogue: str) -> fx.Node:
    if epilogue not in _ACTIVATIONS:
        return y
    activation, options = _ACTIVATIONS[epilogue]
    return graph.call_function(activation, (y,), options)
