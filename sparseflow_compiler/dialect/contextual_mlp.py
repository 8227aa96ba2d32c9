"""``sparse_gemm.contextual_mlp``: an MLP that reads only the neurons that a predictor selects."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Mapping

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import Operand, Result, VerifiedOp, quoted, string_attribute
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, compatible, types_by_role
from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.policy import Policy

CONTEXTUAL_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
"""Activations of the neurons; ``relu2`` is the square of ``relu``."""

GATE = "gate"
"""The rule that needs no predictor: neurons whose activation exceeds the parameter."""

RULES = ("threshold", "top_k", "statistical", GATE)
"""How neurons are selected; `sparseflow.runtime.contextual.Predictor` says what the first three mean."""

PREDICTOR_DTYPES = (*SPARSE_DTYPES, "si8")
"""Element types of a predictor's matrices; those in si8 have a scale for each row."""

POLICIES = ("up_policy", "down_policy")
"""Optional attributes: the policies of the 2:4 products of gate and up, and of down, above ``m_max`` rows."""

OPTIONAL = (
    "pred_a",
    "pred_b",
    "gate",
    "gate_bias",
    "up_bias",
    "down_bias",
    "pred_bias",
    "pred_a_scale",
    "pred_b_scale",
)
"""Operands that may be left out, in their order."""


class ContextualMlpOp(VerifiedOp, name="contextual_mlp", traits=[ext.Pure]):
    """``y = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down_t + down_bias`` over some neurons.

    Without a gate it is ``act(x · upᵀ + up_bias) · down_t + down_bias``. x and y are ``[…, H]``; gate, up and
    down_t ``[I, H]``; gate_bias and up_bias ``[I]``, down_bias ``[H]``. Neurons are selected by ``rule`` and
    ``parameter`` from the scores ``(x · pred_aᵀ) · pred_bᵀ + pred_bias``, pred_a ``[r, H]`` and pred_b
    ``[I, r]``; those that any row of x selects are read for all. The rule ``gate`` has no predictor: it
    selects by the magnitudes of the activation, which is then computed for all neurons.

    With more than ``m_max`` rows the MLP computes every neuron, densely by default. With the optional
    ``up_policy`` the weights of gate and up are 2:4 for every number of rows, and above ``m_max`` their
    product runs by these ranges of M, as in ``linear``. ``down_policy`` does the same for down.
    """

    result: Result
    x: Operand
    up: Operand
    down_t: Operand
    activation: ir.StringAttr
    rule: ir.StringAttr
    parameter: ir.FloatAttr
    m_max: ir.IntegerAttr
    pred_a: Operand | None = None
    pred_b: Operand | None = None
    gate: Operand | None = None
    gate_bias: Operand | None = None
    up_bias: Operand | None = None
    down_bias: Operand | None = None
    pred_bias: Operand | None = None
    pred_a_scale: Operand | None = None
    pred_b_scale: Operand | None = None

    def broken_rules(self) -> Iterator[str]:
        """Check the activation, rule, parameters and policies, and the dtypes and shapes of all tensors."""
        yield from self._broken_attributes()
        types, rule = types_by_role(self.tensors())
        if rule:
            yield rule
            return
        by_gate = string_attribute(self, "rule") == GATE
        if (
            {"pred_a", "pred_b"} - set(types)
            if not by_gate
            else any(role.startswith("pred_") for role in types)
        ):
            yield f"needs pred_a and pred_b if and only if the rule isn't {GATE}"
            return
        yield from _broken_types(types)
        if not by_gate:
            yield from _broken_predictor(types)

    def tensors(self) -> dict[str, ir.Value]:
        """Return operands and result by role, without those that are left out."""
        roles = ("x", "up", "down_t", *OPTIONAL)
        given = {role: getattr(self, role) for role in roles}
        return {role: value for role, value in given.items() if value is not None} | {
            "result": self.results[0]
        }

    def _broken_attributes(self) -> Iterator[str]:
        for name, known in (("activation", CONTEXTUAL_ACTIVATIONS), ("rule", RULES)):
            value = string_attribute(self, name)
            if value not in known:
                yield f"needs {name} to be one of {', '.join(known)}, not {quoted(value)}"
        if not isinstance(self.attributes.get("parameter"), ir.FloatAttr):
            yield "needs a float 'parameter'"
        rows = self.attributes.get("m_max")
        if not isinstance(rows, ir.IntegerAttr) or rows.value < 1:
            yield "needs an integer 'm_max' of at least 1"
        for name in POLICIES:
            if name in self.attributes:
                yield from _broken_policy(name, string_attribute(self, name))


def _broken_policy(name: str, text: str | None) -> Iterator[str]:
    if text is None:
        yield f"needs {name} to be a string; left out, the product is dense"
        return
    try:
        Policy.parse(text)
    except ArgumentError as error:
        yield f"has a malformed {name}: {error.rule}"


def _broken_types(types: Mapping[str, TensorType]) -> Iterator[str]:
    up = types["up"]
    if up.dtype not in (None, *SPARSE_DTYPES):
        yield f"multiplies {', '.join(SPARSE_DTYPES)}, not {up.dtype}"
    if up.rank not in (None, 2):
        yield "needs a matrix as up"
        return
    neurons, hidden = up.dim(0), up.dim(1)
    wanted = {
        "x": types["x"].with_last(hidden),
        **dict.fromkeys(("gate", "down_t"), TensorType((neurons, hidden), None)),
        **dict.fromkeys(("gate_bias", "up_bias"), TensorType((neurons,), None)),
        "down_bias": TensorType((hidden,), None),
        "result": types["x"],
    }
    for role, type_ in wanted.items():
        full = TensorType(type_.shape, up.dtype)
        if role in types and not compatible(types[role], full):
            yield f"needs {role} to be {quoted(full)}, not {quoted(types[role])}"


def _broken_predictor(types: Mapping[str, TensorType]) -> Iterator[str]:
    up, a = types["up"], types["pred_a"]
    if up.rank not in (None, 2) or a.rank not in (None, 2):
        yield "needs a matrix as pred_a"
        return
    neurons, hidden, rank = up.dim(0), up.dim(1), a.dim(0)
    predictor = {role: types[role].dtype for role in ("pred_a", "pred_b")}
    floats = {
        "pred_a": TensorType((rank, hidden), predictor["pred_a"]),
        "pred_b": TensorType((neurons, rank), predictor["pred_b"]),
        "pred_bias": TensorType((neurons,), "f32"),
        "pred_a_scale": TensorType((rank,), "f32"),
        "pred_b_scale": TensorType((neurons,), "f32"),
    }
    for role, type_ in floats.items():
        if role in types and not compatible(types[role], type_):
            yield f"needs {role} to be {quoted(type_)}, not {quoted(types[role])}"
    for role, dtype in predictor.items():
        if dtype not in (None, *PREDICTOR_DTYPES):
            yield f"needs {role} in one of {', '.join(PREDICTOR_DTYPES)}, not {dtype}"
        if (dtype == "si8") != (f"{role}_scale" in types):
            yield f"needs {role}_scale if and only if {role} is in si8"


def contextual_mlp(
    x: ir.Value,
    up: ir.Value,
    down_t: ir.Value,
    *,
    activation: str,
    rule: str,
    parameter: float,
    m_max: int,
    result: ir.Type,
    optional: Mapping[str, ir.Value],
    policies: Mapping[str, str],
) -> ir.Operation:
    """Create a contextual MLP at the current insertion point.

    Args:
        x: ``[…, H]``.
        up: ``[I, H]``.
        down_t: ``[I, H]``.
        activation: one of CONTEXTUAL_ACTIVATIONS.
        rule: one of RULES.
        parameter: of the rule.
        m_max: the most rows of x for which neurons are selected.
        result: type of the result, that of x.
        optional: operands by their names in OPTIONAL.
        policies: policies of the 2:4 products, by their names in POLICIES.
    """
    texts = (ir.StringAttr.get(text) for text in (activation, rule))
    numbers = ir.FloatAttr.get_f64(parameter), ir.IntegerAttr.get(ir.IntegerType.get_signless(64), m_max)
    made: ir.Operation = ContextualMlpOp(result, x, up, down_t, *texts, *numbers, **optional).operation
    for name, policy in policies.items():
        made.attributes[name] = ir.StringAttr.get(policy)
    return made
