"""Match matrix products with a weight: their input, weight, bias and orientation."""

from __future__ import annotations

from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.base import number_of
from sparseflow.dialect.matchers import constant_int, constant_ints, defined_by, is_none
from sparseflow.dialect.types import tensor_type

_TRANSPOSES = ("torch.aten.t", "torch.aten.numpy_T", "torch.aten.transpose.int", "torch.aten.permute")


@dataclass(frozen=True)
class Product:
    """``x · Wᵀ + bias`` as an operation computes it.

    Attributes:
        x: ``[…, K]``.
        weight: a ``sparse_gemm.weight`` of rank 2.
        transposed: whether W is that operation's result transposed.
        bias: ``[N]``; None without one.
    """

    x: ir.Value
    weight: ir.Operation
    transposed: bool
    bias: ir.Value | None


_CASTS = ("torch.aten.to.dtype", "torch.aten._to_copy", "torch.aten.to.dtype_layout")


def uncast(value: ir.Value) -> ir.Value:
    """Strip a conversion to another dtype, as autocast inserts."""
    while (op := defined_by(value, *_CASTS)) is not None:
        value = op.operands[0]
    return value


def matrix_weight(value: ir.Value) -> tuple[ir.Operation, bool] | None:
    """Return the ``sparse_gemm.weight`` of rank 2 behind a value and whether it is transposed, or None."""
    transposed = False
    while (op := defined_by(value, *_TRANSPOSES)) is not None and _exchanges_two_dims(op):
        value, transposed = op.operands[0], not transposed
    found = defined_by(value, "sparse_gemm.weight")
    return None if found is None or _rank(value) != 2 else (found, transposed)


def _exchanges_two_dims(op: ir.Operation) -> bool:
    if _rank(op.operands[0]) != 2:
        return False
    if op.name == "torch.aten.permute":
        return [dim is not None and dim % 2 for dim in constant_ints(op.operands[1]) or ()] == [1, 0]
    if op.name == "torch.aten.transpose.int":
        dims = [constant_int(operand) for operand in list(op.operands)[1:]]
        return None not in dims and {dim % 2 for dim in dims if dim is not None} == {0, 1}
    return True


def read_product(op: ir.Operation) -> Product | None:
    """Read a ``linear``, ``mm``, ``matmul`` or ``addmm`` as ``x · Wᵀ + bias``; None if it isn't one."""
    operands = list(op.operands)
    if op.name == "torch.aten.linear":
        x, factor, bias = operands
        return _product(x, factor, None if is_none(bias) else bias, factor_is_w=True)
    if op.name in ("torch.aten.mm", "torch.aten.matmul"):
        return _product(operands[0], operands[1], None, factor_is_w=False)
    if op.name == "torch.aten.addmm" and is_one(operands[3]) and is_one(operands[4]):
        bias, x, factor = operands[:3]
        return _product(x, factor, bias, factor_is_w=False)
    return None


def is_one(value: ir.Value) -> bool:
    """Return whether a scalar is the int or float constant 1."""
    op = defined_by(value, "torch.constant.int", "torch.constant.float")
    return op is not None and number_of(op) == 1


def _product(x: ir.Value, factor: ir.Value, bias: ir.Value | None, *, factor_is_w: bool) -> Product | None:
    found = matrix_weight(factor)
    if found is None or _rank(x) in (None, 0):
        return None
    weight, transposed = found
    product = Product(x, weight, transposed if factor_is_w else not transposed, bias)
    return product if bias is None or _is_bias(bias, product) else None


def _is_bias(value: ir.Value, product: Product) -> bool:
    bias, weight = tensor_type(value), tensor_type(product.weight.results[0])
    if bias is None or weight is None:
        return False
    n = weight.dim(1 if product.transposed else 0)
    # A bias of size 1 would broadcast where linear wants N.
    return bias.rank == 1 and n is not None and bias.dim(0) == n and bias.dtype == weight.dtype


def _rank(value: ir.Value) -> int | None:
    type_ = tensor_type(value)
    return None if type_ is None else type_.rank
