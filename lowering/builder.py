"""Builds a torch.fx graph from the operations of `@main`, one at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch_mlir import ir

from sparseflow.errors import LoweringError
from sparseflow.lowering.constants import CONSTANTS
from sparseflow.lowering.operators import arguments, find_operator
from sparseflow.lowering.weights import WeightProvider, WeightRegistry

Handler = Callable[["GraphBuilder", ir.Operation], Sequence[Any]]


class GraphBuilder:
    """A graph under construction, and what each MLIR value has become: a node or a Python constant."""

    def __init__(self, weights: WeightProvider) -> None:
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.weights = WeightRegistry(self.root, weights)
        self._values: dict[ir.Value, Any] = {}

    def build(self, function: ir.Operation) -> fx.GraphModule:
        """Translate a function of one block."""
        block = function.regions[0].blocks[0]
        for i, argument in enumerate(block.arguments):
            self._values[argument] = self.graph.placeholder(f"input_{i}")
        for op in block.operations:
            if op.operation.name == "func.return":
                self.graph.output(tuple(self.operands(op.operation)))
            else:
                self._translate(op.operation)
        self.graph.eliminate_dead_code()
        module = fx.GraphModule(self.root, self.graph, "Lowered")
        # GraphModule copies nested attributes into modules of its own; programs share the packed weights.
        for name, child in self.root.named_children():
            if hasattr(module, name):
                setattr(module, name, child)
        module.graph.lint()
        return module

    def operands(self, op: ir.Operation) -> list[Any]:
        """What the operands of an operation have become."""
        return [self._values[value] for value in op.operands]

    def call(self, target: Callable[..., Any], operands: Sequence[Any], hint: str = "") -> Any:
        """Add a call; of constants only, its result is computed now."""
        args, kwargs = arguments(target, operands)
        return self.graph.create_node("call_function", target, args, kwargs, name=hint or None)

    def _translate(self, op: ir.Operation) -> None:
        handler = _HANDLERS.get(op.name, _call_operator)
        try:
            results = handler(self, op)
        except (AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise LoweringError(
                f"{op.name} at {op.location}", f"it has no executable counterpart: {error}", "report it"
            ) from error
        for value, result in zip(op.results, results, strict=True):
            self._values[value] = result


def _call_operator(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return _call(builder, op, op.name)


def _torch_operator(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return _call(builder, op, ir.StringAttr(op.attributes["name"]).value)


def _call(builder: GraphBuilder, op: ir.Operation, name: str) -> Sequence[Any]:
    target = find_operator(name)
    node = builder.call(target, builder.operands(op))
    if len(op.results) == 1:
        return [node]
    return [builder.graph.call_function(operator.getitem, (node, i)) for i in range(len(op.results))]


def _list(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return [builder.operands(op)]


def _unpack(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    (items,) = builder.operands(op)
    if isinstance(items, list):
        return items
    return [builder.graph.call_function(operator.getitem, (items, i)) for i in range(len(op.results))]


def _forward(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return builder.operands(op)


def _constant(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return [CONSTANTS[op.name](op)]


def _weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    name = ir.StringAttr(op.attributes["name"]).value
    node = builder.graph.get_attr(builder.weights.dense((name,), ()))
    if "transposed" in op.attributes:
        node = builder.graph.call_function(torch.ops.aten.t.default, (node,))
    return [node]


def _merged_weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return [builder.graph.get_attr(builder.weights.dense(*_names(op)))]


def _packed_weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Any]:
    return [builder.graph.get_attr(attribute) for attribute in builder.weights.packed(*_names(op))]


def _names(op: ir.Operation) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The names of a merged or packed weight, and which of them are read transposed (empty: none)."""
    names = tuple(ir.StringAttr(name).value for name in ir.ArrayAttr(op.attributes["names"]))
    if "transposed" not in op.attributes:
        return names, ()
    return names, tuple(ir.DenseBoolArrayAttr(op.attributes["transposed"]))


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(CONSTANTS, _constant),
    "torch.operator": _torch_operator,
    "torch.prim.ListConstruct": _list,
    "torch.prim.TupleConstruct": _list,
    "torch.prim.ListUnpack": _unpack,
    # PyTorch's operators take Python numbers where the dialect wants tensors, and bools where it wants ints.
    "torch.prim.NumToTensor.Scalar": _forward,
    "torch.aten.Int.bool": _forward,
    "torch.aten.Float.bool": _forward,
    "torch.derefine": _forward,
    "torch.tensor_static_info_cast": _forward,
    "sparse_gemm.weight": _weight,
    "sparse_gemm.merged_weight": _merged_weight,
    "sparse_gemm.packed_weight": _packed_weight,
}
