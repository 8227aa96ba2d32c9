"""The pass ``lower-column-linear``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import number_of, view_as
from sparseflow.dialect.column_linear import ColumnLinearOp, column_format
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.merged_weight import merged_weight
from sparseflow.dialect.packed_weight import packed_weight
from sparseflow.dialect.sparse_layers import epilogue_of
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.dialect.weight import reoriented
from sparseflow.passes.base import Pass, refuse
from sparseflow.passes.ir_builder import (
    before,
    constant_float,
    constant_int,
    constant_str,
    none,
    replace,
    runtime_call,
    torch_op,
)
from sparseflow.runtime.formats import COLUMNS


@dataclass(frozen=True)
class LowerColumnLinear(Pass):
    """Turn layers that leave out inputs near zero into calls of the runtime's operator.

    Requires: the weight of each `sparse_gemm.column_linear` is a `sparse_gemm.weight` or `merged_weight`.

    Ensures: no `sparse_gemm.column_linear` is left. Each is a
    `torch.operator "torch.sparseflow.column_linear"` over the weight stored K outermost, so that the column
    of an input is read in one piece: a `contiguous` reference, a `turned` merged one, or of one in 8 bits the
    transpose of a `sparse_gemm.packed_weight`, whose format lays it out so. Unused references are gone.
    """

    name: ClassVar[str] = "lower-column-linear"

    def run(self, module: ir.Module) -> None:
        """Lower each by itself."""
        for op in operations(module, {"sparse_gemm.column_linear"}):
            with before(op):
                call = _call(op)
            replace(op, call)


def _call(op: ir.Operation) -> ir.Value:
    view = view_as(op, ColumnLinearOp)
    weight, scale = _packed(op, view.weight) if column_format(op) else (_turned(op, view.weight), none())
    operands = [
        view.x,
        weight,
        constant_float(number_of(op, "threshold")),
        none() if view.bias is None else view.bias,
        none() if view.residual is None else view.residual,
        scale,
        constant_int(int(number_of(op, "m_max"))),
        constant_str(epilogue_of(op)),
    ]
    return runtime_call("column_linear", operands, op.results[0].type)


def _packed(op: ir.Operation, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the transpose of a weight in 8 bits, and its scales."""
    ref, type_ = weight_ref(value), tensor_type(value)
    n, k = (type_.dim(0), type_.dim(1)) if type_ is not None and type_.rank == 2 else (None, None)
    if ref is None or type_ is None or n is None or k is None or type_.dtype is None:
        refuse(
            op,
            "has a weight that isn't a reference of known shape; only such a one is stored in 8 bits",
            "Leave out its format.",
        )
    values, scales = packed_weight(
        ref.names,
        (n, k),
        type_.dtype,
        format=COLUMNS[column_format(op)],
        transposed=ref.transposed,
        sizes=ref.sizes or (),
    )
    stored = tensor_type(values)
    assert stored is not None, "packed_weight made it"
    return torch_op("torch.aten.t", [values], TensorType((k, n), stored.dtype).build()), scales


def _turned(op: ir.Operation, value: ir.Value) -> ir.Value:
    """Return a reference to the transpose of a weight, contiguous."""
    ref, type_ = weight_ref(value), tensor_type(value)
    if ref is None or type_ is None or type_.shape is None:
        refuse(
            op, "has a weight that isn't a reference of known rank", "Keep such a layer as torch.aten.linear."
        )
    turned = TensorType(type_.shape[::-1], type_.dtype)
    if ref.op.name == "sparse_gemm.weight":
        return reoriented(ref.op, turned, transposed=not ref.transposed[0], contiguous=True)
    return merged_weight(ref.names, turned, transposed=ref.transposed, sizes=ref.sizes or (), turned=True)
