"""Dense products of one row on a CPU, at the pace of reading their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, ops

from sparseflow.runtime.ops import dense_rows

STREAMED = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes of `sparseflow::dense_rows`."""

LARGE = 1 << 20
"""Elements of a weight that no core's own cache holds, so that torch's product of one row is slower."""


def one_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` on a CPU, for one row of x by `sparseflow::dense_rows`."""
    one_row = x.numel() == x.shape[-1] and weight.is_contiguous()
    if not one_row or weight.dtype not in STREAMED or x.dtype != weight.dtype:
        return torch.nn.functional.linear(x, weight, bias)
    y: Tensor = dense_rows(x, weight, bias)
    return y


def stream_weights(graph: fx.Graph, chosen: Callable[[fx.Node], bool] = lambda _: True) -> bool:
    """Let dense layers of one row run at the pace of reading their weights; return whether any does.

    torch's product reads a weight of 49152×576 at half of it. Inductor's sum over each row is as slow in
    16 bits, which it converts eight at a time through memory.

    Args:
        graph: changed in place.
        chosen: which layers, by the nodes of their weights.
    """
    found = [node for node in graph.nodes if node.target is ops.aten.linear.default and chosen(node.args[1])]
    for node in found:
        node.target = one_row_linear
    return bool(found)


def streaming(module: fx.GraphModule) -> fx.GraphModule:
    """Return a program for a CPU whose large dense layers stream, over the same tensors.

    A prompt's head is such a layer: of its rows only the last one counts.
    """

    def large(weight: fx.Node) -> bool:
        held = getattr(module, str(weight.target), None) if weight.op == "get_attr" else None
        return isinstance(held, Tensor) and held.numel() >= LARGE

    graph = fx.Graph()
    results = graph.graph_copy(module.graph, {})
    graph.output(results)
    return fx.GraphModule(module, graph) if stream_weights(graph, large) else module
