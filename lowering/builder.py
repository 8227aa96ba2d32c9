"""Build a torch.fx graph from the operations of `@main`, one at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.fx.node import Argument
from torch_mlir import ir

from sparseflow.errors import LoweringError
from sparseflow.lowering.constants import CONSTANTS
from sparseflow.lowering.grouped_attention import grouped_attention
from sparseflow.lowering.literals import literal_tensor
from sparseflow.lowering.operators import arguments, find_operator
from sparseflow.lowering.weight_provider import WeightProvider, WeightRegistry
from sparseflow.runtime.assemble import assemble

Handler = Callable[["GraphBuilder", ir.Operation], Sequence[Argument]]


class GraphBuilder:
    """A graph under construction, with the node or Python constant of each MLIR value."""

    def __init__(self, weights: WeightProvider, device_type: str) -> None:
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.weights = WeightRegistry(self.root, weights)
        self.device_type = device_type
        self._values: dict[ir.Value, Argument] = {}

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
        return assemble(self.root, self.graph, "Lowered")

    def operands(self, op: ir.Operation) -> list[Argument]:
        """Return the nodes and constants of an operation's operands."""
        return [self._values[value] for value in op.operands]

    def _translate(self, op: ir.Operation) -> None:
        handler = _HANDLERS.get(op.name, _call)
        try:
            results = handler(self, op)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise LoweringError(
                f"{_name(op)} at {op.location}",
                f"it can't be executed: {error}",
                "lower modules that import_program or SparseFlow's passes made",
            ) from error
        for value, result in zip(op.results, results, strict=True):
            self._values[value] = result


def _name(op: ir.Operation) -> str:
    """Return the name of the operator that an operation calls."""
    return str(ir.StringAttr(op.attributes["name"]).value if op.name == "torch.operator" else op.name)


def _call(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    name = _name(op)
    target = find_operator(name)
    args, kwargs = arguments(target, builder.operands(op))
    node = builder.graph.create_node("call_function", target, args, kwargs, name=_node_name(name))
    if len(op.results) == 1:
        return [node]
    return [builder.graph.call_function(operator.getitem, (node, i)) for i in range(len(op.results))]


def _node_name(name: str) -> str:
    """Return the name of a node, as in an exported graph: add for `torch.aten.add.Tensor`."""
    return name.split(".")[2]


def _list(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    return [builder.operands(op)]


def _unpack(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    (items,) = builder.operands(op)
    if isinstance(items, list):
        return items
    return [builder.graph.call_function(operator.getitem, (items, i)) for i in range(len(op.results))]


def _forward(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    return builder.operands(op)


def _constant(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    return [CONSTANTS[op.name](op)]


def _literal(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    return [builder.graph.get_attr(builder.weights.literal(literal_tensor(op)))]


def _attention(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    found = grouped_attention(builder.graph, op, builder.operands(op), builder.device_type)
    return _call(builder, op) if found is None else [found]


def _sparse_layer(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    raise LoweringError(
        f"{op.name} at {op.location}", "the runtime has no such operator", "run lower-sparse-gemm first"
    )


def _weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    name = ir.StringAttr(op.attributes["name"]).value
    if "contiguous" in op.attributes:
        return [builder.graph.get_attr(builder.weights.contiguous(name, "transposed" in op.attributes))]
    node = builder.graph.get_attr(builder.weights.dense((name,), ()))
    if "transposed" in op.attributes:
        node = builder.graph.call_function(torch.ops.aten.t.default, (node,))
    return [node]


def _merged_weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    held = builder.weights.columns if "turned" in op.attributes else builder.weights.dense
    return [builder.graph.get_attr(held(*_names(op)))]


def _packed_weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    return [[builder.graph.get_attr(held) for held in builder.weights.packed(*_names(op), _format(op))]]


def _pruned_weight(builder: GraphBuilder, op: ir.Operation) -> Sequence[Argument]:
    held = builder.weights.turned if "turned" in op.attributes else builder.weights.pruned
    return [builder.graph.get_attr(held(*_names(op), _format(op)))]


def _format(op: ir.Operation) -> str:
    return str(ir.StringAttr(op.attributes["format"]).value)


def _names(op: ir.Operation) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Return the names of a merged or packed weight, and which are transposed; empty if none is."""
    names = tuple(ir.StringAttr(name).value for name in ir.ArrayAttr(op.attributes["names"]))
    if "transposed" not in op.attributes:
        return names, ()
    return names, tuple(ir.DenseBoolArrayAttr(op.attributes["transposed"]))


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(CONSTANTS, _constant),
    "torch.prim.ListConstruct": _list,
    "torch.prim.TupleConstruct": _list,
    "torch.prim.ListUnpack": _unpack,
    "torch.prim.TupleUnpack": _unpack,
    # PyTorch's operators accept Python numbers for the dialect's tensors, and bools for its ints.
    "torch.prim.NumToTensor.Scalar": _forward,
    "torch.aten.Int.bool": _forward,
    "torch.aten.Float.bool": _forward,
    "torch.aten.detach": _forward,
    "torch.derefine": _forward,
    "torch.tensor_static_info_cast": _forward,
    "torch.vtensor.literal": _literal,
    "torch.aten.scaled_dot_product_attention": _attention,
    "sparse_gemm.linear": _sparse_layer,
    "sparse_gemm.weight": _weight,
    "sparse_gemm.merged_weight": _merged_weight,
    "sparse_gemm.packed_weight": _packed_weight,
    "sparse_gemm.pruned_weight": _pruned_weight,
}
