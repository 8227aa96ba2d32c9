from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch_mlir import ir

TORCH_DTYPE_TO_MLIR_TYPE_ASM: dict[torch.dtype, str]
SCALAR_TYPE_TO_TORCH_MLIR_TYPE: dict[type, str]
TENSOR_SCALAR_OP_CONVERTER: dict[str, str]

def is_scalar_arg(arg: object) -> bool: ...
def _get_mlir_op_name_for_schema(schema: torch.FunctionSchema) -> str: ...
def _emit_operation(
    mlir_op_name: str, result_types: Sequence[ir.Type], operands: Sequence[ir.Value], loc: ir.Location
) -> ir.Operation: ...

class FxImporter:
    def __init__(
        self, *, module: ir.Module | None = None, context: ir.Context | None = None, config_check: bool = True
    ) -> None: ...
    @property
    def module(self) -> ir.Module: ...

class ContextCache:
    _c: ir.Context
    def __init__(self, context: ir.Context) -> None: ...
    def format_asm_shape(self, shape: torch.Size) -> str: ...

class GraphNodeImporter:
    _b: ir.Block
    _c: ir.Context
    _cc: ContextCache
    _multi_result_nodes: set[fx.Node]
    def __init__(
        self, fx_importer: FxImporter, context: ir.Context, context_cache: ContextCache, block: ir.Block
    ) -> None: ...
    def bind_node_value(
        self, node: fx.Node, value: ir.Value | Callable[[], ir.Value], result_index: int = 0
    ) -> None: ...
    def resolve_node_value(self, node: fx.Node, result_index: int = 0) -> ir.Value: ...
    def _import_literal(self, py_value: object) -> ir.Value: ...
    def _import_getitem(self, loc: ir.Location, node: fx.Node) -> None: ...
