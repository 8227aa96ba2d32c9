"""Recognise MLPs: two or three linear layers around an activation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch_mlir import ir

from sparseflow.dialect.base import number_of, text_of
from sparseflow.dialect.matchers import (
    WeightRef,
    constant_int,
    defined_by,
    is_none,
    operations,
    users,
    weight_ref,
)
from sparseflow.dialect.types import SPARSE_DTYPES, tensor_type
from sparseflow.passes.activations import activation_of
from sparseflow.passes.products import is_one
from sparseflow.passes.sizes import KnownSizes
from sparseflow.passes.views import returns_its_input

_LINEAR, _MUL = "torch.aten.linear", "torch.aten.mul.Tensor"


@dataclass
class Mlp:
    """``act(x · gateᵀ) ⊙ (x · upᵀ)``, or ``act(x · upᵀ)`` without a gate, times ``downᵀ``; biases included.

    Attributes:
        down: the last layer, a ``torch.aten.linear``.
        up: the layer of the neurons.
        gate: the layer whose activation gates them, if there is one.
        activation: one of `sparseflow.dialect.contextual_mlp.CONTEXTUAL_ACTIVATIONS`.
        inside: every operation between x and down.
        reason: why it can't become contextual; empty if it can.
    """

    down: ir.Operation
    up: ir.Operation
    gate: ir.Operation | None
    activation: str
    inside: set[ir.Operation] = field(default_factory=set)
    reason: str = ""

    @property
    def layers(self) -> list[ir.Operation]:
        """Its linear layers."""
        return [layer for layer in (self.gate, self.up, self.down) if layer is not None]

    @property
    def name(self) -> str:
        """The name of its up layer, which identifies its predictor, or its location if unnamed."""
        ref = weight_ref(self.up.operands[1])
        return str(self.up.location) if ref is None else ref.layers[0]

    def ref(self, layer: ir.Operation) -> WeightRef:
        """Return the weight reference of one of its layers; `reason` must be empty."""
        ref = weight_ref(layer.operands[1])
        assert ref is not None, "only called where the MLP may become contextual"
        return ref

    @property
    def sizes(self) -> tuple[int, int]:
        """(I, H): neurons and hidden features."""
        type_ = tensor_type(self.up.operands[1])
        assert type_ is not None, "only called where the MLP may become contextual"
        return type_.dim(0) or 0, type_.dim(1) or 0


def find_mlps(module: ir.Module) -> list[Mlp]:
    """Return every MLP of a module in program order, each with why it can't become contextual, if so.

    Args:
        module: its layers in the form of `canonicalize-linear`.
    """
    sizes = KnownSizes(module)
    found = []
    for down in operations(module, {_LINEAR}):
        mlp = _Matcher(sizes).mlp(down)
        if mlp is not None:
            mlp.reason = next(_reasons(mlp), "")
            found.append(mlp)
    return found


def _reasons(mlp: Mlp) -> Iterator[str]:
    if mlp.gate is not None and mlp.gate.operands[0] != mlp.up.operands[0]:
        yield "gate and up read different inputs"
    for layer in mlp.layers:
        ref = weight_ref(layer.operands[1])
        if ref is None or len(ref.names) != 1:
            yield "the weight of one of its layers is computed at run time or merged"
            return
        bias = bias_of(layer)
        if bias is not None and weight_ref(bias) is None:
            yield "the bias of one of its layers is computed at run time"
        if "sparse_gemm.reason" in layer.attributes:
            yield f"{ref.layers[0]} stays dense: {text_of(layer, 'sparse_gemm.reason')}"
    yield from _type_reasons(mlp)
    known = mlp.inside | {mlp.down}
    for op in mlp.inside:
        if any(reader not in known for result in op.results for reader in users(result)):
            yield "its neurons are read by something else too"


def _type_reasons(mlp: Mlp) -> Iterator[str]:
    types = [tensor_type(layer.operands[1]) for layer in mlp.layers]
    shapes = [None if type_ is None or type_.shape is None else type_.shape for type_ in types]
    if any(shape is None or None in shape for shape in shapes):
        yield "the shape of a weight isn't known when compiling"
        return
    *ups, (out_features, neurons) = shapes  # type: ignore[misc]  # none is None
    if any(up[0] != neurons for up in ups if up is not None):
        yield "gate and up have different numbers of neurons"
    dtypes = {type_.dtype for type_ in types if type_ is not None}
    if len(dtypes) > 1 or not dtypes <= set(SPARSE_DTYPES):
        found, known = ", ".join(map(str, dtypes)), ", ".join(SPARSE_DTYPES)
        yield f"its weights are {found}; the kernels multiply {known}"
    # An input that nothing but layers reads may have any width in its type.
    x, result = tensor_type(mlp.up.operands[0]), tensor_type(mlp.down.results[0])
    if x is None or result is None or x.rank in (None, 0) or x.with_last(ups[0][1]) != result:  # type: ignore[index]
        yield f"its result ({out_features} features) is of another type than its input"


@dataclass
class _Matcher:
    """Match one layer as the last of an MLP and collect the operations inside."""

    sizes: KnownSizes
    inside: set[ir.Operation] = field(default_factory=set)

    def mlp(self, down: ir.Operation) -> Mlp | None:
        hidden = self.through(down.operands[0])
        gated = self.gated(down, hidden)
        if gated is not None:
            return gated
        self.inside.clear()
        hidden = self.through(down.operands[0])
        found = self.activated(hidden)
        return None if found is None else Mlp(down, found[1], None, found[0], self.inside)

    def gated(self, down: ir.Operation, hidden: ir.Value) -> Mlp | None:
        product = defined_by(hidden, _MUL)
        if product is None or product.operands[0].type != product.operands[1].type:
            return None
        for gate, up in (tuple(product.operands), tuple(product.operands)[::-1]):
            self.inside = {product}
            found, layer = self.activated(gate), self.layer(up)
            if found is not None and layer is not None and found[1] != layer:
                return Mlp(down, layer, found[1], found[0], self.inside)
        return None

    def activated(self, value: ir.Value) -> tuple[str, ir.Operation] | None:
        """Match an activation of a linear layer: its name and the layer."""
        value = self.through(value)
        for match in (self.plain, self.squared, self.tanh_gelu):
            before = set(self.inside)
            found = match(value)
            layer = None if found is None else self.layer(found[1])
            if found is not None and layer is not None:
                return found[0], layer
            self.inside = before
        return None

    def layer(self, value: ir.Value) -> ir.Operation | None:
        """Match the linear layer that produces a value."""
        return self.take(self.through(value), _LINEAR)

    def take(self, value: ir.Value, *names: str) -> ir.Operation | None:
        """Return the operation that produces a value if its name is given, and record it as inside."""
        op = defined_by(value, *names)
        if op is not None:
            self.inside.add(op)
        return op

    def through(self, value: ir.Value) -> ir.Value:
        """Strip operations that return their input."""
        while not isinstance(value.owner, ir.Block) and returns_its_input(value.owner.operation, self.sizes):
            self.inside.add(value.owner.operation)
            value = value.owner.operation.operands[0]
        return value

    def plain(self, value: ir.Value) -> tuple[str, ir.Value] | None:
        op = None if isinstance(value.owner, ir.Block) else value.owner.operation
        name = None if op is None or len(op.operands) == 0 else activation_of(op)
        if op is None or name is None:
            return None
        self.inside.add(op)
        return name, op.operands[0]

    def squared(self, value: ir.Value) -> tuple[str, ir.Value] | None:
        """Match the square of relu in any spelling."""
        op = self.take(value, "torch.aten.square", "torch.aten.pow.Tensor_Scalar", _MUL)
        if op is None:
            return None
        if op.name == _MUL and op.operands[0] != op.operands[1]:
            return None
        if op.name == "torch.aten.pow.Tensor_Scalar" and _number(op.operands[1]) != 2:
            return None
        relu = self.take(op.operands[0], "torch.aten.relu")
        return None if relu is None else ("relu2", relu.operands[0])

    def tanh_gelu(self, value: ir.Value) -> tuple[str, ir.Value] | None:
        """Match ``0.5 · v · (1 + tanh(√(2/π) · (v + 0.044715 · v³)))``, the GELU that GPT-2 writes out."""
        product = self.take(value, _MUL)
        for half, rest in ((0, 1), (1, 0)) if product is not None else ():
            v = self.scaled(product.operands[half], 0.5)  # type: ignore[union-attr]  # not None here
            shifted = self.take(product.operands[rest], "torch.aten.add.Scalar")  # type: ignore[union-attr]
            if (
                v is None
                or shifted is None
                or not (is_one(shifted.operands[1]) and is_one(shifted.operands[2]))
            ):
                continue
            tanh = self.take(shifted.operands[0], "torch.aten.tanh")
            inner = None if tanh is None else self.scaled(tanh.operands[0], math.sqrt(2 / math.pi))
            if inner is not None and self.with_cube(inner, v):
                return "gelu_tanh", v
        return None

    def with_cube(self, value: ir.Value, v: ir.Value) -> bool:
        """Return whether a value is ``v + 0.044715 · v³``."""
        total = self.take(value, "torch.aten.add.Tensor")
        if total is None or total.operands[0] != v or not is_one(total.operands[2]):
            return False
        cubed = self.scaled(total.operands[1], 0.044715)
        power = None if cubed is None else self.take(cubed, "torch.aten.pow.Tensor_Scalar")
        return power is not None and power.operands[0] == v and _number(power.operands[1]) == 3

    def scaled(self, value: ir.Value, factor: float) -> ir.Value | None:
        """Return the operand that a multiplication by the given factor scales, or None."""
        op = self.take(value, "torch.aten.mul.Scalar")
        number = None if op is None else _number(op.operands[1])
        if op is None or number is None or not math.isclose(number, factor, rel_tol=1e-5):
            return None
        return op.operands[0]


def _number(value: ir.Value) -> float | None:
    """Return the value of a constant int or float."""
    if (integer := constant_int(value)) is not None:
        return integer
    op = defined_by(value, "torch.constant.float")
    return None if op is None else float(number_of(op))


def bias_of(layer: ir.Operation) -> ir.Value | None:
    """Return the bias of a ``torch.aten.linear``, if it has one."""
    return None if is_none(layer.operands[2]) else layer.operands[2]
