"""Layer norms of long rows become kernels that hold a row, with what is around (`runtime.normed_rows`).

A block of a transformer adds what the last layer gave to its stream, perhaps by a gate, normalises the sum,
perhaps scales and shifts it by the time step, and multiplies it, in fp8 after quantising it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from sparseflow.runtime import fp8
from sparseflow.runtime.fp8_between import linear_fp8_of_rows, linear_fp8_requantized, linear_fp8_to_rows
from sparseflow.runtime.normed_rows import LONGEST, normed_rows, quantize_rows_fp8

SHORTEST = 1025
"""Elements of a row. Inductor's own kernels hold shorter ones."""

_ATEN = torch.ops.aten
_DEFAULTS: tuple[Argument, ...] = (None, None, 1e-5)
"""Of a layer norm's weight, bias and eps."""

_ADD, _MUL, _NORM = _ATEN.add.Tensor, _ATEN.mul.Tensor, _ATEN.layer_norm.default


@dataclass
class _Normed:
    """A norm with its surroundings.

    Attributes:
        norm: the layer norm.
        last: what is computed last, the norm itself or its shift.
        x: the stream.
        total: the addition to it, if there is one.
        y: what is added.
        gate: by which y is multiplied.
        factor: by which the norm's result is multiplied.
        shift: what is added to that.
    """

    norm: fx.Node
    last: fx.Node
    x: fx.Node
    total: fx.Node | None = None
    y: fx.Node | None = None
    gate: fx.Node | None = None
    factor: fx.Node | None = None
    shift: fx.Node | None = None


def hold_normed_rows(graph: fx.GraphModule) -> int:
    """Replace layer norms before layers on a GPU in bfloat16; return how many were.

    Args:
        graph: as torch.compile gives it to a backend; it is changed.
    """
    count = 0
    for norm in [node for node in graph.graph.nodes if node.target is _NORM and _held(node)]:
        found = _around(norm)
        if _alone(found) and any(map(_is_layer, found.last.users)):
            _replace(graph.graph, found)
            count += 1
    if count:
        graph.graph.eliminate_dead_code()
        graph.recompile()
    return count


def _value(node: Argument) -> Tensor | None:
    found = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def _held(norm: fx.Node) -> bool:
    """Return whether the kernel takes a norm's rows: of known number, in bfloat16, long, no gradients."""
    x, y = _value(norm.args[0]), _value(norm)
    if x is None or y is None or not x.is_cuda or x.requires_grad or norm.args[1] != [x.shape[-1]]:
        return False
    vectors = [value for value in map(_value, norm.args[2:4]) if value is not None]
    alike = all(value.dtype == torch.bfloat16 for value in (x, y, *vectors))
    known = all(isinstance(size, int) for size in x.shape)
    return alike and known and SHORTEST <= x.shape[-1] <= LONGEST and x.shape[-1] % 8 == 0


def _is_layer(node: fx.Node) -> bool:
    return str(node.target).startswith("sparseflow.linear")


def _alone(found: _Normed) -> bool:
    """Return whether inductor would make the stream by itself, and nothing reads it before the norm."""
    if found.total is None:
        return found.x.op == "placeholder" or found.x.target is getitem or _is_layer(found.x)
    return all(user is found.norm or found.last < user for user in found.total.users)


def _around(norm: fx.Node) -> _Normed:
    stream = norm.args[0]
    assert isinstance(stream, fx.Node), "it has a value"
    found = _Normed(norm, norm, stream)
    _find_addition(found, stream)
    scaled = _only_user(norm, _MUL)
    shifted = None if scaled is None else _only_user(scaled, _ADD)
    if scaled is not None and shifted is not None:
        factor = next((other for one, other in _operands(scaled, _MUL) if one is norm), None)
        shift = next((other for one, other in _operands(shifted, _ADD) if one is scaled), None)
        if factor and shift and _vector(factor, stream) and _vector(shift, stream):
            found.factor, found.shift, found.last = factor, shift, shifted
    return found


def _find_addition(found: _Normed, stream: fx.Node) -> None:
    orders = [(x, y) for x, y in _operands(stream, _ADD) if _same(x, stream) and _same(y, stream)]
    for x, y in orders:
        found.total, found.x, found.y = stream, x, y
        if _is_layer(y):
            break
    for x, y in orders:
        for gate, product in _operands(y, _MUL) if len(y.users) == 1 else ():
            if _vector(gate, stream) and _same(product, stream):
                found.x, found.y, found.gate = x, product, gate


def _operands(node: fx.Node, target: object) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Give both orders of the operands of an addition or multiplication of two tensors."""
    if node.target is target and len(node.args) == 2 and not node.kwargs:
        one, other = node.args
        if isinstance(one, fx.Node) and isinstance(other, fx.Node):
            yield one, other
            yield other, one


def _same(node: fx.Node, stream: fx.Node) -> bool:
    """Return whether a tensor has the stream's shape and dtype."""
    one, other = _value(node), _value(stream)
    return one is not None and other is not None and one.shape == other.shape and one.dtype == other.dtype


def _vector(node: fx.Node, stream: fx.Node) -> bool:
    """Return whether a tensor is a vector, of all rows or of each batch `[B, 1, K]`."""
    one, x = _value(node), _value(stream)
    if one is None or x is None or one.dtype != x.dtype or one.dim() == 0 or one.shape[-1] != x.shape[-1]:
        return False
    each = x.dim() == 3 and tuple(one.shape) == (x.shape[0], 1, x.shape[-1])
    return each or one.numel() == x.shape[-1]


def _only_user(node: fx.Node, target: object) -> fx.Node | None:
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return user if user is not None and user.target is target else None


def _replace(graph: fx.Graph, found: _Normed) -> None:
    reader = _quantizing_reader(found.last)
    given = found.norm.args[2:5]
    weight, bias, eps = (*given, *_DEFAULTS[len(given) :])
    with graph.inserting_before(found.last):
        y = _product(graph, found.y)
        vectors = (found.gate, weight, bias, found.factor, found.shift)
        rows = graph.call_function(normed_rows, (found.x, *y, *vectors, eps, reader is not None))
        total, out, scale = (graph.call_function(getitem, (rows, index)) for index in range(3))
    if found.total is not None:
        _take_the_place(found.total, total, but=found.norm)
    if reader is None:
        _take_the_place(found.last, out)
        return
    with graph.inserting_before(reader):
        _take_the_place(reader, _of_rows(graph, reader, out, scale))


def _take_the_place(old: fx.Node, new: fx.Node, but: fx.Node | None = None) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not but)


def _kernel(rows: fx.Node, policy: Argument) -> int | None:
    """Return the code of the kernel that runs a layer in fp8 for as many rows as a tensor has."""
    value = _value(rows)
    return None if value is None else fp8.kernel_of(value, list(policy))  # type: ignore[arg-type]  # by schema


def _quantizing_reader(node: fx.Node) -> fx.Node | None:
    """Return the layer in fp8 that alone reads a tensor, and quantises it."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.args.count(node) != 1 or user.args[0] is not node:
        return None
    policy = {fp8.linear_fp8: 8, linear_fp8_to_rows: 7}.get(user.target)  # type: ignore[call-overload]
    kernel = None if policy is None else _kernel(node, user.args[policy])
    return user if kernel not in (None, fp8.SKINNY) else None


def _of_rows(graph: fx.Graph, reader: fx.Node, out: fx.Node, scale: fx.Node) -> fx.Node:
    """Make a layer that reads rows that are quantised already."""
    _, *weight = reader.args
    if reader.target is fp8.linear_fp8:
        *layer, policy, dense = (*weight, None)[:9]
        return graph.call_function(linear_fp8_of_rows, (out, scale, *layer, torch.bfloat16, policy, dense))
    *layer, policy, dense = (*weight, None)[:8]
    return graph.call_function(linear_fp8_requantized, (out, scale, *layer, torch.bfloat16, policy, dense))


def _product(graph: fx.Graph, y: fx.Node | None) -> tuple[Argument, ...]:
    """Return y as the kernel takes it, with the scales of its rows, of W's, and its bias."""
    plain = y, None, None, None
    if y is None or y.target not in (fp8.linear_fp8, linear_fp8_of_rows) or len(y.users) != 1:
        return plain
    if y.target is fp8.linear_fp8:
        x, *weight = y.args
        values, positions, scales, bias, residual, in_features, epilogue, policy, dense = (*weight, None)[:9]
        rows: tuple[Argument, Argument] | None = None
    else:
        x, x_scale, *weight = y.args
        values, positions, scales, bias, residual, in_features, epilogue, _, policy, dense = (*weight, None)[
            :10
        ]
        rows = x, x_scale
    if residual is not None or epilogue != "none" or _kernel(y, policy) != fp8.CUSPARSELT:
        return plain
    with graph.inserting_before(y):
        if rows is None:
            both = graph.call_function(quantize_rows_fp8, (x,))
            rows = graph.call_function(getitem, (both, 0)), graph.call_function(getitem, (both, 1))
        product = (rows[0], values, positions, in_features, policy, dense)
        return graph.call_function(fp8.product_fp8, product), rows[1], scales, bias
