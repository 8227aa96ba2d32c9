"""Import a captured program as one MLIR function, with weights by reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch_mlir import ir
from torch_mlir.dialects import func
from torch_mlir.extras import fx_importer

from sparseflow.errors import FrontendError
from sparseflow.frontend.locations import location, source_line
from sparseflow.frontend.node_importer import NodeImporter, TypeCache
from sparseflow.frontend.program import CapturedProgram
from sparseflow.frontend.weight_source import WeightSource
from sparseflow.runtime.calling.signature import Signature

_CHECKS_OF_THE_TRACE = (
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
)
"""Checks that the types and the program's guards make already."""


@dataclass(frozen=True)
class ImportedProgram:
    """A program in the Torch dialect.

    Attributes:
        module: holds `func.func @main`, from the call's tensors to everything that torch.export returns.
        weights: the tensor behind each `sparse_gemm.weight`, by reference; tied ones share a name.
        signature: how arguments and results map to the user's call.
    """

    module: ir.Module
    weights: WeightSource
    signature: Signature


def import_program(captured: CapturedProgram, context: ir.Context) -> ImportedProgram:
    """Import a captured program into MLIR.

    Args:
        captured: the program.
        context: a context in which the dialects `torch`, `func` and `sparse_gemm` are loaded.

    Raises:
        FrontendError: an operator has no form in the Torch dialect; its name and source line are given.
    """
    weights = WeightSource(captured.exported)
    with context, ir.Location.unknown(context):
        module = _ProgramImporter(captured.exported, weights, context).run()
    return ImportedProgram(module, weights, captured.signature)


class _ProgramImporter:
    """The import of one program into a new module."""

    def __init__(self, exported: ExportedProgram, weights: WeightSource, context: ir.Context) -> None:
        self._exported = exported
        self._weights = weights
        self._context = context
        self._types = TypeCache(context)
        self._fx = fx_importer.FxImporter(context=context, config_check=False)
        self._placeholders = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}

    def run(self) -> ir.Module:
        """Build `@main`."""
        specs = self._exported.graph_signature.input_specs
        inputs = [self._placeholders[s.arg.name] for s in specs if s.kind is InputKind.USER_INPUT]
        types = [self._type(node) for node in inputs]
        function = func.FuncOp("main", (types, []), ip=ir.InsertionPoint(self._fx.module.body))
        block = ir.Block.create_at_start(function.body, types)
        nodes = NodeImporter(self._fx, self._context, self._types, block)
        for node, argument in zip(inputs, block.arguments, strict=True):
            nodes.bind_node_value(node, argument)
        self._bind_weights(nodes)
        for node in self._exported.graph.nodes:
            if node.op == "call_function" and node.target not in _CHECKS_OF_THE_TRACE:
                self._import_node(nodes, node)
        results = self._results(nodes)
        with ir.InsertionPoint(block):
            func.ReturnOp(results)
        signature = ir.FunctionType.get(types, [value.type for value in results])
        function.attributes["function_type"] = ir.TypeAttr.get(signature)
        return self._fx.module

    def _type(self, node: torch.fx.Node) -> ir.Type:
        try:
            return self._types.of(node.meta["val"])
        except TypeError as error:
            raise FrontendError(
                node.name, str(error), "keep this tensor out of the compiled model"
            ) from error

    def _bind_weights(self, nodes: NodeImporter) -> None:
        """Bind weights: emit each name once, where it is first read."""
        for spec in self._exported.graph_signature.input_specs:
            if spec.kind is not InputKind.USER_INPUT:
                node, name = self._placeholders[spec.arg.name], self._weights.name_of(spec)
                nodes.bind_node_value(node, partial(self._weight, nodes, node, name))

    def _weight(self, nodes: NodeImporter, node: torch.fx.Node, name: str) -> ir.Value:
        return nodes.weight(name, self._type(node), self._weights.kinds.get(name, ""))

    def _import_node(self, nodes: NodeImporter, node: torch.fx.Node) -> None:
        try:
            nodes.import_node(location(node, self._context), node)
        except (NotImplementedError, TypeError, AssertionError, KeyError, ir.MLIRError) as error:
            line = source_line(node)
            where = f" at {line[0]}:{line[1]}" if line else ""
            raise FrontendError(
                f"{node.target}{where}",
                f"the operator can't be imported to MLIR: {error}",
                "write this part of the model with other operators, or compile the parts around it",
            ) from error

    def _results(self, nodes: NodeImporter) -> list[ir.Value]:
        """Return the values of all of torch.export's results; constants become constant operations."""
        producers = {node.name: node for node in self._exported.graph.nodes}
        values = []
        for spec in self._exported.graph_signature.output_specs:
            constant = isinstance(spec.arg, ConstantArgument)
            value = spec.arg.value if constant else producers[spec.arg.name]
            values.append(nodes.value(value))
        return values
