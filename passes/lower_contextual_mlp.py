"""The pass ``lower-contextual-mlp``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import number_of, string_attribute, text_of, view_as
from sparseflow.dialect.contextual_mlp import GATE, ContextualMlpOp
from sparseflow.dialect.matchers import WeightRef, operations, weight_ref
from sparseflow.dialect.packed_weight import WeightForms, packed_weight
from sparseflow.dialect.pruned_weight import pruned_weight
from sparseflow.dialect.types import tensor_type
from sparseflow.dialect.weight import reoriented
from sparseflow.passes.base import Pass, refuse
from sparseflow.passes.ir_builder import (
    before,
    constant_float,
    constant_int,
    constant_str,
    int_list,
    none,
    replace,
    runtime_call,
    slice_first,
)
from sparseflow.runtime.dispatch.policy import Policy

_OPERATORS = {False: "contextual_mlp_auto", True: "contextual_mlp_by_gate"}
_PREDICTING = ("pred_a", "pred_b")
# In the order of the operators' schemas; None stands for scales, which only int8 weights have.
_TENSORS, _BIASES = ("x", "gate", "up", "down_t"), ("gate_bias", "up_bias", "down_bias")
_PREDICTOR = ("pred_a", "pred_b", "pred_bias", "pred_a_scale", "pred_b_scale")
_BY_GATE = (*_TENSORS, *_BIASES)
_BY_PREDICTOR = (*_TENSORS, None, None, None, *_BIASES, *_PREDICTOR)


@dataclass(frozen=True)
class LowerContextualMlp(Pass):
    """Turn contextual MLPs into calls of the runtime's operator.

    Requires: the matrices of each `sparse_gemm.contextual_mlp` are `sparse_gemm.weight`; those of a product
    that is 2:4 have static shapes.

    Ensures: no `sparse_gemm.contextual_mlp` is left. Each is a
    `torch.operator "torch.sparseflow.contextual_mlp_auto"`, with the rule `gate` a
    `"torch.sparseflow.contextual_mlp_by_gate"`, over `contiguous` weights, so that a neuron's rows are read
    in place. For a 2:4 product it reads the `sparse_gemm.packed_weight` and the `sparse_gemm.pruned_weight`:
    one for gate and up together, of which both are slices, and the `turned` one for down. Unused references
    are gone.
    """

    name: ClassVar[str] = "lower-contextual-mlp"

    def run(self, module: ir.Module) -> None:
        """Lower each by itself."""
        for op in operations(module, {"sparse_gemm.contextual_mlp"}):
            with before(op):
                call = _call(op)
            replace(op, call)


def _call(op: ir.Operation) -> ir.Value:
    tensors = view_as(op, ContextualMlpOp).tensors()
    packed = _products(op, tensors)
    for role in _PREDICTING:
        if role in tensors:
            tensors[role] = _contiguous(op, role, tensors[role])
    rule = text_of(op, "rule")
    by_gate = rule == GATE
    roles = _BY_GATE if by_gate else _BY_PREDICTOR
    operands = [tensors[role] if role in tensors else none() for role in roles]
    operands += [] if by_gate else [constant_str(rule)]
    operands += [
        constant_float(number_of(op, "parameter")),
        constant_str(text_of(op, "activation")),
        constant_int(int(number_of(op, "m_max"))),
    ]
    return runtime_call(_OPERATORS[by_gate], [*operands, *packed], op.results[0].type)


def _products(op: ir.Operation, tensors: dict[str, ir.Value]) -> list[ir.Value]:
    """Replace matrices in `tensors` by those that the kernels read; return the operands of 2:4 products."""
    ups: list[str] = [role for role in ("gate", "up") if role in tensors]
    operands: list[ir.Value] = []
    for roles, pack, policy in ((ups, _pack_up, "up_policy"), (["down_t"], _pack_down, "down_policy")):
        text = string_attribute(op.opview, policy)
        if text is None:
            for role in roles:
                tensors[role] = _contiguous(op, role, tensors[role])
            operands += [none(), none(), int_list([])]
        else:
            operands += [*pack(op, roles, tensors), int_list(Policy.parse(text).to_ints())]
    return operands


def _pack_up(op: ir.Operation, roles: list[str], tensors: dict[str, ir.Value]) -> tuple[ir.Value, ...]:
    refs = [_reference(op, role, tensors[role]) for role in roles]
    neurons, hidden, dtype = _static(op, "up", tensors["up"])
    whole: WeightForms = {
        "names": [ref.names[0] for ref in refs],
        "shape": (len(roles) * neurons, hidden),
        "dtype": dtype,
        "transposed": [ref.transposed[0] for ref in refs],
        "sizes": [neurons] * len(roles),
    }
    packed, pruned = packed_weight(**whole), pruned_weight(**whole)
    for i, role in enumerate(roles):
        start, type_ = i * neurons, tensors[role].type
        part = pruned if len(roles) == 1 else slice_first(pruned, start, start + neurons, type_)
        tensors[role] = part
    return packed


def _pack_down(op: ir.Operation, roles: list[str], tensors: dict[str, ir.Value]) -> tuple[ir.Value, ...]:
    (role,) = roles
    ref = _reference(op, role, tensors[role])
    neurons, hidden, dtype = _static(op, role, tensors[role])
    whole: WeightForms = {
        "names": ref.names,
        "shape": (hidden, neurons),
        "dtype": dtype,
        "transposed": [not ref.transposed[0]],
    }
    tensors[role] = pruned_weight(**whole, turned=True)
    return packed_weight(**whole)


def _static(op: ir.Operation, role: str, value: ir.Value) -> tuple[int, int, str]:
    """Return I, H and the element type of a matrix; refuse a dynamic shape."""
    type_ = tensor_type(value)
    shape = (None,) if type_ is None or type_.shape is None else type_.shape
    if type_ is None or type_.dtype is None or None in shape:
        refuse(op, f"has {role} of type '{value.type}'; packing needs its shape", "Leave out its policy.")
    neurons, hidden = shape
    return neurons or 0, hidden or 0, type_.dtype


def _contiguous(op: ir.Operation, role: str, value: ir.Value) -> ir.Value:
    ref, type_ = _reference(op, role, value), tensor_type(value)
    assert type_ is not None, "the verifier checked it"
    return reoriented(ref.op, type_, transposed=ref.transposed[0], contiguous=True)


def _reference(op: ir.Operation, role: str, value: ir.Value) -> WeightRef:
    ref = weight_ref(value)
    if ref is None or len(ref.names) != 1:
        refuse(
            op, f"has {role} that isn't a reference to one weight", "Form it from layers over such weights."
        )
    return ref
