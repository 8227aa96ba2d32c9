"""What the linear layers of the dialect have in common, whichever part of the weight they leave out."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.base import number_of, text_of, view_as
from sparseflow.dialect.column_linear import ColumnLinearOp, column_format, column_linear
from sparseflow.dialect.linear import EPILOGUE, LinearOp, linear_like

LINEAR = "sparse_gemm.linear"
COLUMN_LINEAR = "sparse_gemm.column_linear"
LAYERS = frozenset({LINEAR, COLUMN_LINEAR})
"""The names of the operations."""


def layer_view(layer: ir.Operation) -> LinearOp | ColumnLinearOp:
    """Return the operands of a layer by name."""
    return view_as(layer, LinearOp) if layer.name == LINEAR else view_as(layer, ColumnLinearOp)


def epilogue_of(layer: ir.Operation) -> str:
    """Return the epilogue of a layer, one of `EPILOGUES`."""
    return text_of(layer, EPILOGUE) if EPILOGUE in layer.attributes else "none"


def layer_like(
    layer: ir.Operation,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    *,
    result: ir.Type,
    epilogue: str,
) -> ir.Operation:
    """Create a layer at the current insertion point that differs from another in these.

    Args:
        layer: the other layer.
        x: ``[…, K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.
        residual: of the result's type, added last.
        result: type of the result, ``[…, N]``, ``[…, N/2]`` with a gate.
        epilogue: one of `EPILOGUES`.
    """
    if layer.name == LINEAR:
        return linear_like(layer, x, weight, bias, residual, result=result, epilogue=epilogue)
    return column_linear(
        x,
        weight,
        bias,
        residual,
        threshold=number_of(layer, "threshold"),
        m_max=int(number_of(layer, "m_max")),
        format=column_format(layer),
        epilogue=epilogue,
        result=result,
    )
