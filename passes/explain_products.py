"""The pass ``explain-products``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import constant_int, constant_ints, defined_by
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass
from sparseflow.passes.ir_builder import explain
from sparseflow.passes.weight_views import (
    WeightView,
    base_name,
    is_convolution,
    is_recurrent,
    multiplied_weights,
)


@dataclass(frozen=True)
class ExplainProducts(Pass):
    """Record why products with a parameter other than linear layers stay dense.

    Requires: `match-sparse-linear`, which explains linear layers.

    Ensures: each other product one of whose factors is a parameter of rank 2 or more, however viewed, cast or
    sliced, carries the attribute `sparse_gemm.reason`: matrix products, `einsum`, convolutions, recurrent
    layers, products over experts; operators of other libraries are recognised by name, such as `_grouped_mm`.

    Left alone: products of activations, buffers and constants; lookups in an embedding; what is only added.
    """

    name: ClassVar[str] = "explain-products"

    def run(self, module: ir.Module) -> None:
        """Visit every operation: products have many names."""

        def visit(op: ir.Operation) -> ir.WalkResult:
            known = op.name.startswith("torch.aten.") and op.name != "torch.aten.linear"
            if (known or op.name == "torch.operator") and (weights := multiplied_weights(op)):
                explain(op, _reason(op, weights))
            return ir.WalkResult.ADVANCE

        module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)


def _reason(op: ir.Operation, weights: Sequence[WeightView]) -> str:
    if is_convolution(op):
        return _of_convolution(op)
    if is_recurrent(op):
        return f"this {base_name(op)} multiplies by its matrices inside one operator, once a step"
    ranks = {view.rank for view in weights}
    if len(ranks) == 1 and ranks != {2}:
        return f"its weight has rank {ranks.pop()}; only matrices can be packed"
    if weights[0].part:
        return f"it multiplies by a part of the matrix '{weights[0].name}'"
    if base_name(op) == "einsum":
        return f"{_equation(op)}: write it as nn.Linear, if it is one, to make it sparse"
    return f"this {base_name(op)} isn't of the form x W^T + bias"


def _equation(op: ir.Operation) -> str:
    text = defined_by(op.operands[0], "torch.constant.str")
    return "an einsum" if text is None else f"an einsum '{text_of(text)}'"


def _of_convolution(op: ir.Operation) -> str:
    weight = tensor_type(op.operands[1])
    sizes = weight.shape[2:] if weight is not None and weight.shape else ()
    if set(sizes) != {1} or not _mixes_channels_only(op):
        return "a convolution, not a linear layer"
    by = "x".join("1" for _ in sizes)
    return f"a {by} convolution: replace it by nn.Linear over channels last to make it sparse"


def _mixes_channels_only(op: ir.Operation) -> bool:
    """Return whether a size-1 convolution visits each position once and reads all channels."""
    if base_name(op) not in ("conv1d", "conv2d", "conv3d"):
        return False
    _, _, _, stride, padding, _, groups = op.operands
    padded = constant_ints(padding)
    return (
        set(constant_ints(stride) or ()) == {1}
        and (defined_by(padding, "torch.constant.str") is not None or set(padded or ()) == {0})
        and constant_int(groups) == 1
    )
