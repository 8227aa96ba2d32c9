"""The pass ``fuse-gate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, TypeVar

from torch_mlir import ir

from sparseflow.dialect.linear import FORMAT_REFUSED, layer_format
from sparseflow.dialect.matchers import constant_int, only_reader, operations, users, weight_ref
from sparseflow.dialect.merged_weight import merged_weight
from sparseflow.dialect.sparse_layers import LAYERS, LINEAR, epilogue_of, layer_like, layer_view
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.activations import activation_of
from sparseflow.passes.base import Pass
from sparseflow.passes.ir_builder import before, replace

T = TypeVar("T")


@dataclass(frozen=True)
class FuseGate(Pass):
    """Fuse the gate of a gated MLP into the layer that computes both of its halves.

    Requires: gate and up are one layer (`merge-projections`); layers have their format (`choose-format`).

    Ensures: `act(gate) * up`, the factors in either order, over the two halves of a `sparse_gemm.linear` or
    `column_linear` of N rows is that layer with the epilogue `<act>_gated`, act being `relu`, `gelu`,
    `gelu_tanh` or `silu`, and a result of N/2. If the rows of up come first, the parts of the merged weight
    and bias are exchanged. The activated gate is no longer rounded, nor are the halves if the product's
    kernel applies the gate.

    Left alone: layers that have an epilogue, a residual or a format without gates; halves, activations or a
    layer that something else reads; up first if the halves aren't whole parts of a merged weight.
    """

    name: ClassVar[str] = "fuse-gate"

    def run(self, module: ir.Module) -> None:
        """Fuse the gate of each layer by itself."""
        for op in operations(module, LAYERS):
            gate = _gate_of(op)
            if gate is not None:
                _fuse(gate)


@dataclass(frozen=True)
class _Gate:
    """A layer and the gate fused into it.

    Attributes:
        layer: the sparse layer, result ``[…, 2·half]``.
        product: the multiplication of the activated gate and up, ``[…, half]``.
        activation: of the gate.
        half: rows of the gate.
        up_first: whether the rows of up come before those of the gate.
    """

    layer: ir.Operation
    product: ir.Operation
    activation: str
    half: int
    up_first: bool


def _gate_of(layer: ir.Operation) -> _Gate | None:
    halves = _halves(layer)
    if halves is None or epilogue_of(layer) != "none":
        return None
    if layer_view(layer).residual is not None:
        return None
    type_ = tensor_type(halves[0])
    assert type_ is not None, "_halves checked it"
    for up_first, (gate, up) in enumerate((halves, halves[::-1])):
        act, product = only_reader(gate), only_reader(up)
        name = None if act is None else activation_of(act)
        if act is None or name is None or product is None or product.name != "torch.aten.mul.Tensor":
            continue
        # The product has two factors and keeps the type: reading both halves it reads nothing else.
        if users(act.results[0]) == [product] and _takes(layer, f"{name}_gated"):
            found = _Gate(layer, product, name, type_.dim(-1) or 0, bool(up_first))
            return found if not up_first or _can_turn(found) else None
    return None


def _takes(layer: ir.Operation, epilogue: str) -> bool:
    """Return whether a layer's format supports an epilogue."""
    if layer.name != LINEAR:
        return True
    type_ = tensor_type(layer.operands[1])
    n, k = (type_ and type_.shape) or (None, None)
    if type_ is None or type_.dtype is None or n is None or k is None:
        return False
    return layer_format(layer).why_not(n, k, type_.dtype, epilogue) is None


def _halves(layer: ir.Operation) -> Sequence[ir.Value] | None:
    """Return the two halves of a layer's last dimension, if nothing else of it is used."""
    type_, readers = tensor_type(layer.results[0]), users(layer.results[0])
    n = None if type_ is None or not type_.shape else type_.dim(-1)
    if type_ is None or not type_.shape or not n or n % 2:
        return None
    last = (-1, len(type_.shape) - 1)
    if [op.name for op in readers] == ["torch.aten.chunk"]:
        return _chunks(readers[0], last)
    if [op.name for op in readers] != ["torch.aten.slice.Tensor"] * 2:
        return None
    at = {_range(op, last, n): op.results[0] for op in readers}
    found = [at[part] for part in ((0, n // 2), (n // 2, n)) if part in at]
    return found if len(found) == 2 else None


def _chunks(chunk: ir.Operation, last: tuple[int, int]) -> Sequence[ir.Value] | None:
    """Return the two tensors that an even last dimension is split into."""
    count, dim = map(constant_int, list(chunk.operands)[1:])
    readers = users(chunk.results[0])
    if count != 2 or dim not in last or [op.name for op in readers] != ["torch.prim.ListUnpack"]:
        return None
    return list(readers[0].results)


def _range(op: ir.Operation, last: tuple[int, int], n: int) -> tuple[int | None, int | None]:
    """Return start and end of a slice of the last dimension, of size n; (None, None) for any other slice."""
    dim, start, end, step = map(constant_int, list(op.operands)[1:])
    return (start, end and min(end, n)) if dim in last and step == 1 else (None, None)


def _can_turn(gate: _Gate) -> bool:
    view = layer_view(gate.layer)
    return all(_cut(value, gate.half) for value in (view.weight, view.bias) if value is not None)


def _cut(value: ir.Value, row: int) -> int | None:
    """Return the number of merged parts before a row, or None if no part starts at that row."""
    ref = weight_ref(value)
    ends = [] if ref is None or len(users(value)) > 1 else list(accumulate(ref.sizes))
    return ends.index(row) + 1 if row in ends else None


def _turned(value: ir.Value, row: int) -> ir.Value:
    """Return the merged tensor rotated so that the parts from a given row on come first."""
    ref, type_, at = weight_ref(value), tensor_type(value), _cut(value, row)
    assert ref is not None, "_can_turn checked it"
    assert type_ is not None, "_can_turn checked it"

    def turn(parts: tuple[T, ...]) -> tuple[T, ...]:
        return (*parts[at:], *parts[:at])

    return merged_weight(turn(ref.names), type_, transposed=turn(ref.transposed), sizes=turn(ref.sizes))


def _fuse(gate: _Gate) -> None:
    view, attributes = layer_view(gate.layer), gate.layer.attributes
    with before(gate.layer):
        weight, bias = view.weight, view.bias
        if gate.up_first:
            weight, bias = _turned(weight, gate.half), None if bias is None else _turned(bias, gate.half)
        epilogue, result = f"{gate.activation}_gated", gate.product.results[0].type
        fused = layer_like(gate.layer, view.x, weight, bias, result=result, epilogue=epilogue)
        if FORMAT_REFUSED in attributes:
            fused.attributes[FORMAT_REFUSED] = attributes[FORMAT_REFUSED]
    replace(gate.product, fused.results[0])
