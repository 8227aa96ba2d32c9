"""The pass ``lower-contextual-mlp``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.contextual_mlp import GATE
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.dialect.weight import weight
from sparseflow.passes.base import Pass, refuse
from sparseflow.passes.build import (
    before,
    constant_float,
    constant_int,
    constant_str,
    none,
    replace,
    runtime_call,
)

_OPERATORS = {False: "contextual_mlp_auto", True: "contextual_mlp_by_gate"}
_MATRICES = ("gate", "up", "down_t", "pred_a", "pred_b")
# In the order of the operators' schemas; None is a place that only weights in int8 fill.
_TENSORS, _BIASES = ("x", "gate", "up", "down_t"), ("gate_bias", "up_bias", "down_bias")
_PREDICTOR = ("pred_a", "pred_b", "pred_bias", "pred_a_scale", "pred_b_scale")
_BY_GATE = (*_TENSORS, *_BIASES)
_BY_PREDICTOR = (*_TENSORS, None, None, None, *_BIASES, *_PREDICTOR)


@dataclass(frozen=True)
class LowerContextualMlp(Pass):
    """Turn contextual MLPs into calls of the runtime's operator.

    Requires: the matrices of each `sparse_gemm.contextual_mlp` are `sparse_gemm.weight`.

    Ensures: no `sparse_gemm.contextual_mlp` is left. Each is a
    `torch.operator "torch.sparseflow.contextual_mlp_auto"`, with the rule `gate` a
    `"torch.sparseflow.contextual_mlp_by_gate"`, over `contiguous` weights, so that a neuron's rows are read
    where they are. References that nothing reads any more are gone.
    """

    name: ClassVar[str] = "lower-contextual-mlp"

    def run(self, module: ir.Module) -> None:
        """Lower each by itself."""
        for op in operations(module, {"sparse_gemm.contextual_mlp"}):
            with before(op):
                call = _call(op)
            replace(op, call)


def _call(op: ir.Operation) -> ir.Value:
    tensors = op.opview.tensors()
    for role in _MATRICES:
        if role in tensors:
            tensors[role] = _contiguous(op, role, tensors[role])
    attributes = op.attributes
    by_gate = attributes["rule"].value == GATE
    roles = _BY_GATE if by_gate else _BY_PREDICTOR
    operands = [tensors[role] if role in tensors else none() for role in roles]
    operands += [] if by_gate else [constant_str(attributes["rule"].value)]
    operands += [
        constant_float(attributes["parameter"].value),
        constant_str(attributes["activation"].value),
        constant_int(attributes["m_max"].value),
    ]
    return runtime_call(_OPERATORS[by_gate], operands, op.results[0].type)


def _contiguous(op: ir.Operation, role: str, value: ir.Value) -> ir.Value:
    ref, type_ = weight_ref(value), tensor_type(value)
    if ref is None or type_ is None or len(ref.names) != 1:
        refuse(op, f"has {role} that is no reference to one weight", "Form it from layers over such weights.")
    return weight(ref.names[0], type_, transposed=ref.transposed[0], contiguous=True)
