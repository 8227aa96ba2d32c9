"""Import nodes of an exported graph, where torch-mlir's own importer fails or loses information."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx.experimental.symbolic_shapes import cast_symbool_to_symint_guardless
from torch_mlir import ir
from torch_mlir.extras import fx_importer

from sparseflow.dialect.weight import KIND
from sparseflow.lowering.enum_codes import DTYPE_CODES
from sparseflow.runtime.scalars import NATIVE_INT_OPERATORS, scalar_operator_name

if TYPE_CHECKING:
    from torch._C import JitType

_ITEMS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
_LIST_OF = {"!torch.int": "int", "!torch.float": "float", "!torch.bool": "bool", "!torch.str": "str"}


class TypeCache(fx_importer.ContextCache):
    """Torch-dialect types of traced values."""

    __slots__ = ["_parsed"]

    def __init__(self, context: ir.Context) -> None:
        super().__init__(context)
        self._parsed: dict[str, ir.Type] = {}

    def parse(self, text: str) -> ir.Type:
        """Parse a type, once for each text."""
        if text not in self._parsed:
            self._parsed[text] = ir.Type.parse(text, self._c)
        return self._parsed[text]

    def tensor(self, tensor: torch.Tensor) -> ir.Type:
        """Return the value-semantic type of a tensor."""
        code = fx_importer.TORCH_DTYPE_TO_MLIR_TYPE_ASM.get(tensor.dtype)
        if code is None or tensor.layout is not torch.strided:
            raise TypeError(f"the Torch dialect has no {tensor.layout} tensors of {tensor.dtype}")
        return self.parse(f"!torch.vtensor<[{self.format_asm_shape(tensor.shape)}],{code}>")

    def of(self, value: object) -> ir.Type:
        """Return the type of any traced value."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, (list, tuple)):
            return self.parse("!torch.list<vtensor>")
        scalar = fx_importer.SCALAR_TYPE_TO_TORCH_MLIR_TYPE.get(type(value))
        if scalar is None:
            raise TypeError(f"the Torch dialect has no type for {type(value).__name__}")
        return self.parse(scalar)


class NodeImporter(fx_importer.GraphNodeImporter):
    """Emit Torch-dialect operations; operators unknown to the dialect become `torch.operator`."""

    _cc: TypeCache

    def __init__(
        self,
        module: fx_importer.FxImporter,
        context: ir.Context,
        types: TypeCache,
        block: ir.Block,
    ) -> None:
        super().__init__(module, context, types, block)
        self._weights: dict[str, ir.Value] = {}
        self._constants: dict[tuple[type, str], ir.Value] = {}

    def weight(self, name: str, result: ir.Type, kind: str) -> ir.Value:
        """Emit the weight called `name`, or return it if it was emitted before.

        Args:
            name: the tensor's name in the weight source.
            result: its type.
            kind: ``"buffer"`` or ``"constant"``; empty for a parameter.
        """
        if name not in self._weights:
            attributes: dict[str, ir.Attribute] = {"name": ir.StringAttr.get(name)}
            if kind:
                attributes[KIND] = ir.StringAttr.get(kind)
            op = ir.Operation.create("sparse_gemm.weight", results=[result], attributes=attributes)
            self._weights[name] = op.result
        return self._weights[name]

    def value(self, item: object) -> ir.Value:
        """Return the value of a node or of a Python constant."""
        with ir.InsertionPoint(self._b):
            return self._operand(_here(), item, None)

    def import_node(self, loc: ir.Location, node: torch.fx.Node) -> None:
        """Emit the operations of a call_function node at the end of the block."""
        target = node.target
        with loc, ir.InsertionPoint(self._b):
            if target is torch.ops.aten.sym_size.int:
                self._emit(loc, node, "torch.aten.size.int", torch.ops.aten.size.int._schema)
            elif target in _ITEMS and isinstance(node.meta["val"], (bool, torch.SymBool)):
                self._emit(loc, node, "torch.aten.Bool.Tensor", target._schema)
            elif target is torch.sym_sum:
                self._import_sum(loc, node)
            elif target is cast_symbool_to_symint_guardless:  # of torch 2.11; 2.13 has sym_ite there
                self._import_scalar(loc, node, "sym_ite", (node.args[0], 1, 0))
            elif isinstance(target, torch._ops.OpOverload):
                self._import_overload(loc, node, target)
            elif callable(target) and getattr(target, "__name__", "") == "getitem":
                self._import_getitem(loc, node)
            elif (name := scalar_operator_name(target)) is not None:
                self._import_scalar(loc, node, name, node.args)
            else:
                raise NotImplementedError(f"{target} has no form in the Torch dialect")

    def _import_overload(self, loc: ir.Location, node: torch.fx.Node, target: torch._ops.OpOverload) -> None:
        name = fx_importer._get_mlir_op_name_for_schema(target._schema)
        schema = target._schema
        scalar_form = fx_importer.TENSOR_SCALAR_OP_CONVERTER.get(name)
        if scalar_form is not None and fx_importer.is_scalar_arg(node.args[1]):
            packet, overload = scalar_form.removeprefix("torch.aten.").split(".")
            name, schema = scalar_form, getattr(getattr(torch.ops.aten, packet), overload)._schema
        self._emit(loc, node, name, schema)

    def _emit(self, loc: ir.Location, node: torch.fx.Node, name: str, schema: torch.FunctionSchema) -> None:
        operands = [
            self._operand(loc, _argument(node, i, parameter), parameter.type)
            for i, parameter in enumerate(schema.arguments)
        ]
        value = node.meta.get("val")
        count = len(schema.returns)
        values = [value] if count == 1 else [] if count == 0 else list(value or ())
        types = [self._cc.of(v) for v in values]
        if count > 1:
            self._multi_result_nodes.add(node)
        op = fx_importer._emit_operation(name, result_types=types, operands=operands, loc=loc)
        for i, result in enumerate(op.results):
            self.bind_node_value(node, result, i)

    def _operand(self, loc: ir.Location, arg: object, jit_type: JitType | None) -> ir.Value:
        if isinstance(arg, (list, tuple)):
            return self._list(loc, arg, jit_type)
        value = self._node_value(arg) if isinstance(arg, torch.fx.Node) else self._constant(arg)
        if isinstance(jit_type, torch.TensorType) and not _is_tensor(value):
            return self._number_to_tensor(loc, arg, value)
        if str(value.type) == "!torch.bool" and isinstance(jit_type, (torch.IntType, torch.NumberType)):
            return self._one("torch.aten.Int.bool", "!torch.int", [value], loc)
        if str(value.type) == "!torch.int" and isinstance(jit_type, torch.FloatType):
            return self._one("torch.aten.Float.Scalar", "!torch.float", [value], loc)
        return value

    def _node_value(self, node: torch.fx.Node) -> ir.Value:
        return self.resolve_node_value(node)

    def _constant(self, value: object) -> ir.Value:
        """Return the value of a Python constant, emitted once, at the head of the function."""
        if isinstance(value, torch.dtype):
            value = DTYPE_CODES[value]
        key = (type(value), repr(value))
        if key not in self._constants:
            with ir.InsertionPoint.at_block_begin(self._b), ir.Location.unknown():
                constant = self._complex(value) if isinstance(value, complex) else self._import_literal(value)
            self._constants[key] = constant
        return self._constants[key]

    def _list(self, loc: ir.Location, items: Sequence[object], jit_type: JitType | None) -> ir.Value:
        if isinstance(jit_type, torch.OptionalType):
            jit_type = jit_type.getElementType()
        if jit_type is None:
            raise TypeError("arithmetic on sizes takes no lists")
        element = jit_type.getElementType()
        optional = isinstance(element, torch.OptionalType)
        element = element.getElementType() if optional else element
        values = [self._operand(loc, item, element) for item in items]
        name = _element_name(element, values)
        text = f"!torch.list<optional<{name}>>" if optional else f"!torch.list<{name}>"
        return self._one("torch.prim.ListConstruct", text, values, loc)

    def _number_to_tensor(self, loc: ir.Location, arg: object, value: ir.Value) -> ir.Value:
        example = arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg
        if example is None:
            return value
        kind = {torch.SymInt: 0, torch.SymFloat: 0.0, torch.SymBool: False}.get(type(example), example)
        asm = fx_importer.TORCH_DTYPE_TO_MLIR_TYPE_ASM[torch.tensor(kind).dtype]
        return self._one("torch.prim.NumToTensor.Scalar", f"!torch.vtensor<[],{asm}>", [value], loc)

    def _import_scalar(
        self, loc: ir.Location, node: torch.fx.Node, name: str, args: Sequence[object]
    ) -> None:
        values = [self._operand(loc, arg, None) for arg in args]
        result = str(self._cc.of(node.meta["val"]))
        if name in NATIVE_INT_OPERATORS and all(str(v.type) == "!torch.int" for v in values):
            self.bind_node_value(node, self._one(f"torch.aten.{name}.int", result, values, loc))
            return
        self.bind_node_value(node, self._operator(f"torch.sym.{name}", result, values, loc))

    def _import_sum(self, loc: ir.Location, node: torch.fx.Node) -> None:
        """Import a sum of ints as additions, which passes on sizes understand."""
        first, *others = (self._operand(loc, arg, None) for arg in torch.utils._pytree.tree_leaves(node.args))
        for value in others:
            first = self._one("torch.aten.add.int", "!torch.int", [first, value], loc)
        self.bind_node_value(node, first)

    def _complex(self, value: complex) -> ir.Value:
        loc = _here()
        parts = [self._import_literal(value.real), self._import_literal(value.imag)]
        return self._operator("torch.sym.complex", "!torch.number", parts, loc)

    def _operator(self, name: str, result: str, operands: Sequence[ir.Value], loc: ir.Location) -> ir.Value:
        op = ir.Operation.create(
            "torch.operator",
            attributes={"name": ir.StringAttr.get(name)},
            results=[self._cc.parse(result)],
            operands=operands,
            loc=loc,
        )
        return op.result

    def _one(self, name: str, result: str, operands: Sequence[ir.Value], loc: ir.Location) -> ir.Value:
        types = [self._cc.parse(result)]
        return ir.Operation.create(name, results=types, operands=operands, loc=loc).result


def _here() -> ir.Location:
    return ir.Location.current or ir.Location.unknown()


def _argument(node: torch.fx.Node, index: int, parameter: torch.Argument) -> object:
    """Return a node's argument for a parameter of its operator's schema."""
    if index < len(node.args):
        return node.args[index]
    return node.kwargs.get(parameter.name, parameter.default_value)


def _is_tensor(value: ir.Value) -> bool:
    return str(value.type).startswith(("!torch.vtensor", "!torch.tensor", "!torch.none"))


def _element_name(element: JitType, values: Iterable[ir.Value]) -> str:
    if isinstance(element, torch.TensorType):
        return "vtensor"
    found = {_LIST_OF[str(value.type)] for value in values if str(value.type) in _LIST_OF}
    if len(found) > 1:
        raise TypeError(f"a list of {' and '.join(sorted(found))} has no form in the Torch dialect")
    if found:
        return found.pop()
    return {torch.IntType: "int", torch.FloatType: "float", torch.BoolType: "bool"}.get(type(element), "str")
