"""Activations of the Torch dialect, and their names as epilogues of sparse layers."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.matchers import defined_by
from sparseflow.passes.ir_builder import constant_str, torch_op

_PLAIN = {"torch.aten.relu": "relu", "torch.aten.silu": "silu"}
_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


def activation_of(op: ir.Operation) -> str | None:
    """Return the epilogue that an operation corresponds to, or None."""
    if op.name in _PLAIN:
        return _PLAIN[op.name]
    text = defined_by(op.operands[1], "torch.constant.str") if op.name == "torch.aten.gelu" else None
    return None if text is None else _GELUS.get(ir.StringAttr(text.attributes["value"]).value)


def activate(value: ir.Value, activation: str) -> ir.Value:
    """Create, at the insertion point, the operation that an epilogue stands for; none for "none"."""
    match activation:
        case "relu" | "silu":
            return torch_op(f"torch.aten.{activation}", [value], value.type)
        case "gelu":
            return torch_op("torch.aten.gelu", [value, constant_str("none")], value.type)
        case "gelu_tanh":
            return torch_op("torch.aten.gelu", [value, constant_str("tanh")], value.type)
    return value
