"""Two layers in fp8, one after the other: rows go from product to product in e4m3 (`runtime.fp8_between`).

An MLP's up and down are such layers. Decided where torch.compile gives inductor a program, for then the rows
of its inputs are numbers, and with them the kernels of both layers known: those for few rows take 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import getitem
from typing import NamedTuple

import torch
from torch import fx
from torch.fx.node import Argument

from sparseflow.runtime import fp8
from sparseflow.runtime.fp8_between import linear_fp8_of_rows, linear_fp8_to_rows


class _Layer(NamedTuple):
    """The arguments of a `linear_fp8`."""

    x: fx.Node
    values: Argument
    positions: Argument
    scales: Argument
    bias: Argument
    residual: Argument
    in_features: int
    epilogue: str
    policy: list[int]
    dense: Argument = None


def keep_rows_quantized(graph: fx.GraphModule) -> int:
    """Join layers in fp8 of many rows with the layer that alone reads them; return how many were joined.

    Args:
        graph: as torch.compile gives it to a backend; it is changed.
    """
    pairs = list(_pairs(graph.graph))
    for first, second in pairs:
        _join(graph.graph, first, second)
    if pairs:
        graph.recompile()
    return len(pairs)


def _pairs(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Find the pairs, later ones first: the second of one may be the first of another."""
    taken = set[fx.Node]()
    for second in reversed(graph.nodes):
        first = second.args[0] if second.target is fp8.linear_fp8 else None
        if not isinstance(first, fx.Node) or first.target is not fp8.linear_fp8 or taken & {first, second}:
            continue
        if _joins(first, second):
            taken |= {first, second}
            yield first, second


def _joins(first: fx.Node, second: fx.Node) -> bool:
    layers = _layer(first), _layer(second)
    alone = len(first.users) == 1 and second.args[1:].count(first) == 0
    return alone and layers[0].residual is None and all(_quantizes(layer) for layer in layers)


def _layer(node: fx.Node) -> _Layer:
    return _Layer(*node.args)  # type: ignore[arg-type]  # the operator's schema


def _quantizes(layer: _Layer) -> bool:
    """Return whether a layer's rows are known, on a GPU, and multiplied in e4m3."""
    x = layer.x.meta.get("example_value")
    kernel = fp8.kernel_of(x, list(layer.policy)) if isinstance(x, torch.Tensor) and x.is_cuda else None
    return kernel not in (None, fp8.SKINNY)


def _join(graph: fx.Graph, first: fx.Node, second: fx.Node) -> None:
    up, down = _layer(first), _layer(second)
    dtype = up.x.meta["example_value"].dtype
    with graph.inserting_before(second):
        weight = (up.values, up.positions, up.scales, up.bias)
        both = (up.x, *weight, up.in_features, up.epilogue, up.policy, up.dense)
        rows = graph.call_function(linear_fp8_to_rows, both)
        y = [graph.call_function(getitem, (rows, index)) for index in range(2)]
        rest = (*down[1:8], dtype, down.policy, down.dense)
        joined = graph.call_function(linear_fp8_of_rows, (*y, *rest))
    joined.meta = dict(second.meta)
    second.replace_all_uses_with(joined)
    graph.erase_node(second)
    graph.erase_node(first)
