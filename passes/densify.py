"""A sparse layer as the Torch-dialect operations that compute the same with a dense weight."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.passes.build import constant_int, constant_str, none, torch_op


def dense_layer(layer: ir.Operation, reason: str) -> ir.Value:
    """Create, at the insertion point, what a ``sparse_gemm.linear`` computes.

    Args:
        layer: the sparse layer.
        reason: why it runs densely, for the report.

    Returns:
        The value that takes the place of the layer's result.
    """
    view, type_ = layer.opview, layer.results[0].type
    bias = none() if view.bias is None else view.bias
    value = torch_op("torch.aten.linear", [view.x, view.weight, bias], type_)
    value.owner.attributes["sparse_gemm.reason"] = ir.StringAttr.get(reason)
    value = _activate(value, view.epilogue.value, type_)
    if view.residual is None:
        return value
    return torch_op("torch.aten.add.Tensor", [value, view.residual, constant_int(1)], type_)


def _activate(value: ir.Value, epilogue: str, type_: ir.Type) -> ir.Value:
    match epilogue:
        case "relu" | "silu":
            return torch_op(f"torch.aten.{epilogue}", [value], type_)
        case "gelu":
            return torch_op("torch.aten.gelu", [value, constant_str("none")], type_)
        case "gelu_tanh":
            return torch_op("torch.aten.gelu", [value, constant_str("tanh")], type_)
    return value
