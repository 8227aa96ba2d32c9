"""Rewrite a sparse layer as Torch-dialect operations over its dense weight."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.base import view_as
from sparseflow.dialect.linear import GATES, LinearOp
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.activations import activate
from sparseflow.passes.ir_builder import constant_int, none, slice_last, torch_op


def dense_layer(layer: ir.Operation, reason: str) -> ir.Value:
    """Create, at the insertion point, the dense equivalent of a ``sparse_gemm.linear``.

    Args:
        layer: the sparse layer.
        reason: why it runs densely, for the report.

    Returns:
        The value that takes the place of the layer's result.
    """
    view, type_ = view_as(layer, LinearOp), layer.results[0].type
    epilogue, bias = view.epilogue.value, none() if view.bias is None else view.bias
    whole = _whole(layer) if epilogue in GATES else type_
    value = torch_op("torch.aten.linear", [view.x, view.weight, bias], whole)
    value.owner.attributes["sparse_gemm.reason"] = ir.StringAttr.get(reason)
    if epilogue in GATES:
        return _gated(value, GATES[epilogue], type_)
    active = activate(value, epilogue)
    if view.residual is None:
        return active
    return torch_op("torch.aten.add.Tensor", [active, view.residual, constant_int(1)], type_)


def _whole(layer: ir.Operation) -> ir.Type:
    """Return the type of a gated layer's product, before the gate."""
    result, weight = tensor_type(layer.results[0]), tensor_type(layer.operands[1])
    assert result is not None, "the verifier checked it"
    assert weight is not None, "the verifier checked it"
    return result.with_last(weight.dim(0)).build()


def _gated(product: ir.Value, activation: str, half: ir.Type) -> ir.Value:
    type_ = tensor_type(product)
    n = None if type_ is None else type_.dim(-1)
    assert n is not None, "a gated layer's weight has a static N"
    gate, up = slice_last(product, 0, n // 2, half), slice_last(product, n // 2, n, half)
    return torch_op("torch.aten.mul.Tensor", [activate(gate, activation), up], half)
