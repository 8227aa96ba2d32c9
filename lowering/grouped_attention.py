"""Grouped-query attention without repeating keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument
from torch_mlir import ir

from sparseflow.dialect.types import tensor_type

_ATEN = torch.ops.aten
_WHOLE = 2**63 - 1


def grouped_attention(
    graph: fx.Graph, op: ir.Operation, operands: Sequence[Argument], device_type: str
) -> fx.Node | None:
    """Compute attention over repeated heads from the heads themselves.

    Models repeat each key and value head for all query heads of its group, which copies them. A GPU's kernels
    without a mask support grouped heads directly. Kernels with a mask don't; but when every head has a single
    query, the query heads of a group can be computed as several queries of one head. A CPU's kernel supports
    grouped heads with any mask.

    Args:
        graph: where to add nodes.
        op: a `torch.aten.scaled_dot_product_attention`.
        operands: its lowered operands, in schema order.
        device_type: where the graph will run.

    Returns:
        The result `[B, heads, L, D]`, or None if the attention has another form.
    """
    query, key, value, mask, dropout, causal, scale, gqa = operands
    sizes = _shape(op.operands[0])
    repeated = _repeated(key), _repeated(value)
    if sizes is None or len(sizes) != 4 or dropout or gqa or None in repeated:
        return None
    (keys, heads, group), (values, *same) = repeated  # type: ignore[misc]  # both were found
    if [heads, group] != same or sizes[1] != heads * group:
        return None
    if sizes[2] != 1 or causal or not _for_all_heads(op.operands[3], mask):
        if device_type != "cpu" and (mask is not None or not _reads_groups(op)):
            return None
        return graph.call_function(
            _ATEN.scaled_dot_product_attention.default,
            (query, keys, values, mask, 0.0, causal),
            {"scale": scale, "enable_gqa": True},
        )
    # By dimensions and not by sizes, which the module's types may leave open.
    single = graph.call_function(_ATEN.squeeze.dim, (query, 2))
    packed = graph.call_function(_ATEN.unflatten.int, (single, 1, [heads, group]))
    attention = graph.call_function(
        _ATEN.scaled_dot_product_attention.default, (packed, keys, values, mask), {"scale": scale}
    )
    merged = graph.call_function(_ATEN.flatten.using_ints, (attention, 1, 2))
    return graph.call_function(_ATEN.unsqueeze.default, (merged, 2))


def _reads_groups(op: ir.Operation) -> bool:
    """Return whether a GPU's fused kernel supports fewer key heads than query heads."""
    query, result = tensor_type(op.operands[0]), tensor_type(op.results[0])
    if query is None or result is None or query.dtype not in ("bf16", "f16"):
        return False
    return query.dim(3) == result.dim(3) and (query.dim(3) or 512) <= 256


def _shape(value: ir.Value) -> list[int | None] | None:
    type_ = tensor_type(value)
    return None if type_ is None or type_.shape is None else list(type_.shape)


def _for_all_heads(value: ir.Value, mask: object) -> bool:
    """Return whether there is no mask, or one `[…, 1, 1, S]`, the same for all heads of a group."""
    shape = _shape(value)
    return mask is None or (shape is not None and len(shape) == 4 and shape[1] == shape[2] == 1)


def _repeated(node: Argument) -> tuple[fx.Node, int, int] | None:
    """Match repeated heads: the source `[B, heads, S, D]`, the number of heads and the group size."""
    expanded, sizes = _call(node, _ATEN.reshape.default)
    cloned, *_ = _call(expanded, _ATEN.clone.default)
    inner, copies = _call(expanded if cloned is None else cloned, _ATEN.expand.default)
    heads, dim = _call(_unsliced(inner), _ATEN.unsqueeze.default)
    source = _unsliced(heads)
    if not isinstance(source, fx.Node) or dim != 2 or len(copies) != 5 or len(sizes) != 4:
        return None
    count, group = copies[1], copies[2]
    if type(count) is not int or type(group) is not int or sizes[1] != count * group:
        return None
    return source, count, group


def _call(node: Argument, target: object) -> tuple[Argument, Any]:
    """Return the first two arguments of a call of `target`, None for missing ones or another call."""
    if not isinstance(node, fx.Node) or node.target is not target:
        return None, None
    first, second = (*node.args, None)[:2]
    return first, second


def _unsliced(node: Argument) -> Argument:
    """Strip slices that cover everything."""
    while isinstance(node, fx.Node) and node.target is _ATEN.slice.Tensor and node.args[2:] == (0, _WHOLE):
        node = node.args[0]
    return node
