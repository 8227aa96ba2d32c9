"""Root-mean-square norms of a decoding step move into the products around them (`runtime.normed_products`).

    stream = x + linear(h)
    normed = (stream.float() * rsqrt(mean(stream.float() ** 2) + eps)).to(dtype) * weight

The product before writes the stream, the stream times the norm's weight, and sums of its squares; those after
multiply by a row's factor at their end. Where the policies run the kernel for few rows of sm_90, in bfloat16:
the stream times a weight, not normed yet, can leave the range of float16.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from sparseflow.runtime import ops
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.normed_products import MOST_ROWS, skinny_after_norm, skinny_before_norm

FIRST_OF_SM_90 = 16
"""The first variant of the kernel for few rows that takes a norm before it (csrc/cuda/skinny/skinny.h)."""

_ATEN = torch.ops.aten


class _Layer(NamedTuple):
    """The arguments of a `sparseflow.linear`."""

    x: fx.Node
    values: fx.Node
    positions: Argument
    bias: Argument
    residual: fx.Node | None
    in_features: int
    epilogue: str
    policy: list[int]
    dense: Argument = None


@dataclass(frozen=True)
class _Normed:
    """A norm with the products around it.

    Attributes:
        stream: what is normed.
        product: the layer that gives it, perhaps by its residual.
        weight: of the norm.
        eps: of the norm.
        readers: the layers that read its result.
    """

    stream: fx.Node
    product: fx.Node
    weight: fx.Node
    eps: float
    readers: tuple[fx.Node, ...]


def norms_into_products(graph: fx.GraphModule, rows: int) -> int:
    """Move the norms of a step into its products where those run the kernel for few rows; return how many.

    Args:
        graph: of a step on a GPU; it is changed.
        rows: that its layers get.
    """
    if rows > MOST_ROWS:
        return 0
    found = [normed for normed in _norms(graph.graph) if _runs(graph, normed, rows)]
    for normed in found:
        _move(graph.graph, normed, rows)
    if found:
        graph.graph.eliminate_dead_code()
        graph.recompile()
    return len(found)


def _norms(graph: fx.Graph) -> Iterator[_Normed]:
    for root in graph.find_nodes(op="call_function", target=_ATEN.rsqrt.default):
        if (found := _around(root)) is not None:
            yield found


def _around(root: fx.Node) -> _Normed | None:
    """Return the norm that a reciprocal root belongs to, if it is one between products."""
    plus = _made_by(root.args[0], _ATEN.add.Scalar)
    mean = _made_by(plus.args[0], _ATEN.mean.dim) if plus else None
    square = _made_by(mean.args[0], _ATEN.pow.Tensor_Scalar) if mean else None
    wide = _made_by(square.args[0], _ATEN.to.dtype) if square else None
    times = _only_user(root, _ATEN.mul.Tensor)
    narrow = _only_user(times, _ATEN.to.dtype) if times else None
    result = _only_user(narrow, _ATEN.mul.Tensor) if narrow else None
    if plus is None or mean is None or square is None or wide is None or times is None or result is None:
        return None
    usual = mean.args[1:] == ([-1], True) and square.args[1] == 2 and wide.args[1] == torch.float32
    stream, weight, eps = wide.args[0], _other(result, narrow), plus.args[1]
    if not usual or _other(times, root) is not wide or not isinstance(stream, fx.Node):
        return None
    addition = _addition(stream)
    if addition is None or weight is None or weight.op != "get_attr" or not isinstance(eps, float):
        return None
    readers = tuple(result.users)
    return _Normed(stream, addition[0], weight, eps, readers) if _all_read(readers, result) else None


def _addition(stream: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the layer that gives the stream, and what its product is added to."""
    if stream.target is ops.linear:
        layer = _layer(stream)
        return (stream, layer.residual) if layer.residual is not None and layer.epilogue == "none" else None
    if stream.target is not _ATEN.add.Tensor or len(stream.args) != 2 or stream.kwargs:
        return None
    for product in reversed(stream.all_input_nodes):
        other = _other(stream, product)
        if product.target is ops.linear and len(product.users) == 1 and other is not None:
            layer = _layer(product)
            if layer.residual is None and layer.epilogue == "none":
                return product, other
    return None


def _all_read(layers: Sequence[fx.Node], result: fx.Node) -> bool:
    """Return whether nodes are layers that multiply a norm's result, and read it nowhere else."""
    return all(
        layer.target is ops.linear and layer.args.count(result) == 1 and _layer(layer).x is result
        for layer in layers
    ) and all(_layer(layer).residual is None for layer in layers)


def _runs(graph: fx.GraphModule, normed: _Normed, rows: int) -> bool:
    """Return whether the kernel for few rows of sm_90 multiplies before a norm and after it, in bfloat16."""
    widths = set[int]()
    for node in (normed.product, *normed.readers):
        layer = _layer(node)
        variant, values = _variant(layer, rows), _tensor(graph, layer.values)
        if variant is None or variant < FIRST_OF_SM_90 or layer.in_features % 64 or values.shape[0] % 8:
            return False
        if values.dtype != torch.bfloat16:
            return False
        widths.add(values.shape[0] if node is normed.product else layer.in_features)
    return len(widths) == 1 and _tensor(graph, normed.weight).shape == (widths.pop(),)


def _move(graph: fx.Graph, normed: _Normed, rows: int) -> None:
    first, addition = _layer(normed.product), _addition(normed.stream)
    assert addition is not None, "it was there, though norms before have moved since"
    with graph.inserting_before(normed.stream):
        weight = graph.get_attr(str(normed.weight.target))
        parts = (first.x, first.values, first.positions, first.bias, addition[1], weight)
        both = graph.call_function(skinny_before_norm, (*parts, first.in_features, _variant(first, rows)))
        stream, x, squares = (graph.call_function(getitem, (both, index)) for index in range(3))
    for node in normed.readers:
        layer = _layer(node)
        with graph.inserting_before(node):
            own = (layer.values, layer.positions, layer.bias, layer.in_features, layer.epilogue)
            end = (x, squares, normed.eps, *own, _variant(layer, rows))
            node.replace_all_uses_with(graph.call_function(skinny_after_norm, end))
        graph.erase_node(node)
    normed.stream.replace_all_uses_with(stream)


def _layer(node: fx.Node) -> _Layer:
    return _Layer(*node.args)  # type: ignore[arg-type]  # the operator's schema


def _variant(layer: _Layer, rows: int) -> int | None:
    """Return the variant of the kernel for few rows that a layer's policy names; None for another kernel."""
    codes = [code for first, code in zip(layer.policy[::2], layer.policy[1::2], strict=True) if first <= rows]
    choice = Choice.from_code(codes[-1]) if codes else None
    return choice.algorithm if choice is not None and choice.kernel == "skinny" else None


def _tensor(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    found = functools.reduce(getattr, str(node.target).split("."), graph)
    assert isinstance(found, Tensor), f"{node.target} is a weight's"
    return found


def _made_by(node: Argument, target: object) -> fx.Node | None:
    """Return a node if an operator makes it."""
    return node if isinstance(node, fx.Node) and node.target is target else None


def _only_user(node: fx.Node, target: object) -> fx.Node | None:
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return user if user is not None and user.target is target else None


def _other(node: fx.Node, one: fx.Node | None) -> fx.Node | None:
    """Return the other operand of an addition or multiplication of two tensors."""
    others = [arg for arg in node.args if arg is not one]
    return others[0] if len(others) == 1 and len(node.args) == 2 and isinstance(others[0], fx.Node) else None
