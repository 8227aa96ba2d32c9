"""``sparse_gemm.linear``: a linear layer over a structured-sparse weight."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import (
    Operand,
    Result,
    VerifiedOp,
    attribute,
    broken_format_rules,
    format_of,
    quoted,
    string_attribute,
    text_of,
)
from sparseflow.dialect.types import (
    SPARSE_DTYPES,
    TensorType,
    compatible,
    same_size,
    tensor_type,
    types_by_role,
)
from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import Format

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
"""Activations that the operation can apply to its result."""

GATES = {f"{activation}_gated": activation for activation in ACTIVATIONS}
"""Gated epilogues, each with its activation, which is applied to the first half of the product."""

EPILOGUES = ("none", *ACTIVATIONS, *GATES)
"""The epilogues of the operation."""

EPILOGUE = "epilogue"
"""The attribute that names a layer's epilogue."""

KEEPS_DENSE = "keeps_dense"
"""Optional unit attribute: the dense weight is kept beside the packed one, for the M's that run densely."""

FORMAT_REFUSED = "sparse_gemm.format_refused"
"""Discardable attribute: why a layer doesn't have the requested format."""


HEAD = "sparse_gemm.head"
"""Discardable unit attribute: the layer is the model's head, and its packed weight a copy of its own."""


class LinearOp(VerifiedOp, name="linear", traits=[ext.Pure]):
    """``y = act(x · Wᵀ + bias) (+ residual)`` with x ``[…, K]``, W ``[N, K]``, bias ``[N]``, y ``[…, N]``.

    With a gated epilogue, such as ``silu_gated``, y is ``act(g) * u``, ``[…, N/2]``, for the halves g and u
    of ``x · Wᵀ + bias``: W has the rows of the gate, then those of up.
    ``policy`` is empty (always sparse) or ranges of M such as ``1:cpu,512:dense``; with the optional unit
    attribute ``keeps_dense`` W is kept densely too, for the ranges that are dense. ``format`` says how W is
    stored and multiplied.
    """

    result: Result
    x: Operand
    weight: Operand
    format: ir.StringAttr
    epilogue: ir.StringAttr
    policy: ir.StringAttr
    bias: Operand | None = None
    residual: Operand | None = None

    def broken_rules(self) -> Iterator[str]:
        """Check the format, epilogue and policy, and the dtypes and shapes of all tensors."""
        yield from broken_format_rules(self)
        yield from self._broken_attributes()
        types, rule = types_by_role(self.tensors())
        if rule:
            yield rule
            return
        yield from broken_type_rules(types, string_attribute(self, "epilogue") or "none")
        yield from self._broken_format(types["weight"])

    def tensors(self) -> dict[str, ir.Value]:
        """Return operands and result by role, without those that are left out."""
        roles = {"x": self.x, "weight": self.weight, "bias": self.bias, "residual": self.residual}
        given = {role: value for role, value in roles.items() if value is not None}
        return given | {"result": self.results[0]}

    def _broken_format(self, weight: TensorType) -> Iterator[str]:
        """Yield why a weight of known type can't be stored in the format."""
        stored, epilogue = format_of(self), string_attribute(self, "epilogue")
        n, k = weight.shape or (None, None)
        if stored is None or weight.dtype is None or n is None or k is None:
            return
        if reason := stored.why_not(n, k, weight.dtype, epilogue or "none"):
            yield f"can't be '{stored.name}': {reason}"

    def _broken_attributes(self) -> Iterator[str]:
        policy = string_attribute(self, "policy")
        yield from broken_epilogue_rules(self)
        if policy is None:
            yield "needs a string 'policy'; \"\" means always sparse"
            return
        try:
            parsed = Policy.parse(policy)
        except ArgumentError as error:
            yield f"has a malformed {error.subject}: {error.rule}"
            return
        yield from self._broken_copy(parsed)

    def _broken_copy(self, policy: Policy) -> Iterator[str]:
        if KEEPS_DENSE not in self.attributes:
            return
        if not isinstance(attribute(self, KEEPS_DENSE), ir.UnitAttr):
            yield f"needs a unit attribute '{KEEPS_DENSE}', or none"
        elif not policy.wants_dense:
            yield f"has '{KEEPS_DENSE}', but its policy runs densely for no M"


def broken_epilogue_rules(op: VerifiedOp) -> Iterator[str]:
    """Yield why the attribute of an operation isn't an epilogue."""
    epilogue = string_attribute(op, EPILOGUE)
    if epilogue not in EPILOGUES:
        yield f"needs an 'epilogue' that is one of {', '.join(EPILOGUES)}, not {quoted(epilogue)}"


def broken_type_rules(types: dict[str, TensorType], epilogue: str = "none") -> Iterator[str]:
    """Yield why tensors can't be the operands and result of one sparse layer.

    Args:
        types: by role: x, weight, result, and bias and residual if there are any.
        epilogue: of the layer; with a gate the result has N/2 features.
    """
    gated = epilogue in GATES
    if gated:
        yield from _broken_gate(types, epilogue)
    yield from _broken_dtypes(types)
    yield from _broken_shapes(types, gated)


def _broken_gate(types: dict[str, TensorType], epilogue: str) -> Iterator[str]:
    weight = types["weight"]
    n = weight.dim(0) if weight.rank in (None, 2) else 0
    if n is None or n % 2:
        yield f"needs an even N for the epilogue '{epilogue}', not {'a dynamic one' if n is None else n}"
    if "residual" in types:
        yield f"can't have both the epilogue '{epilogue}' and 'residual'"


def _broken_dtypes(types: dict[str, TensorType]) -> Iterator[str]:
    known = {role: type_.dtype for role, type_ in types.items() if type_.dtype is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{role} {dtype}" for role, dtype in known.items())
        yield f"needs one dtype throughout, not {listed}"
    for dtype in known.values():
        if dtype not in SPARSE_DTYPES:
            yield f"multiplies {', '.join(SPARSE_DTYPES)}, not {dtype}"


def _broken_shapes(types: dict[str, TensorType], gated: bool) -> Iterator[str]:
    x, weight, result = types["x"], types["weight"], types["result"]
    if weight.rank not in (None, 2):
        yield f"needs a weight of shape [N, K], not of rank {weight.rank}"
        return
    if x.rank == 0 or result.rank == 0:
        yield "needs x of shape [..., K] and a result of shape [..., N], not a scalar"
        return
    if not same_size(x.dim(-1), weight.dim(1)):
        yield f"has K = {x.dim(-1)} in x but K = {weight.dim(1)} in the weight"
    n = weight.dim(0)
    expected = x.with_last(n // 2 if gated and n is not None else n)
    if not compatible(result, expected):
        yield f"must return {quoted(expected)}, not {quoted(result)}"
    if "bias" in types and not compatible(types["bias"], TensorType((weight.dim(0),), None)):
        yield f"needs a bias of shape [N] with N = {weight.dim(0)}, not {quoted(types['bias'])}"
    if "residual" in types and types["residual"] != result:
        yield f"needs a residual of the result's type {quoted(result)}, not {quoted(types['residual'])}"


def linear(
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    *,
    result: ir.Type,
    epilogue: str = "none",
    policy: str = "",
    format: str = "2:4",
) -> ir.Operation:
    """Create a sparse linear layer at the current insertion point.

    Args:
        x: ``[…, K]``.
        weight: ``[N, K]``, of the sparsity pattern.
        bias: ``[N]``.
        residual: of the result's type, added last.
        result: type of the result, ``[…, N]``, ``[…, N/2]`` with a gate.
        epilogue: one of EPILOGUES.
        policy: which kernel runs for which M.
        format: how the weight is stored.
    """
    texts = (ir.StringAttr.get(text) for text in (format, epilogue, policy))
    layer: ir.Operation = LinearOp(result, x, weight, *texts, bias=bias, residual=residual).operation
    return layer


def linear_like(
    layer: ir.Operation,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    *,
    result: ir.Type,
    epilogue: str,
) -> ir.Operation:
    """Create a sparse linear layer with the format, policy and dense copy of another.

    Args:
        layer: the other layer.
        x: ``[…, K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.
        residual: of the result's type.
        result: type of the result.
        epilogue: one of EPILOGUES.
    """
    how = {"format": text_of(layer, "format"), "policy": text_of(layer, "policy")}
    made = linear(x, weight, bias, residual, result=result, epilogue=epilogue, **how)
    set_keeps_dense(made, KEEPS_DENSE in layer.attributes)
    return made


def set_keeps_dense(layer: ir.Operation, kept: bool) -> None:
    """Set whether a sparse layer keeps its dense weight."""
    if kept:
        layer.attributes[KEEPS_DENSE] = ir.UnitAttr.get()
    elif KEEPS_DENSE in layer.attributes:
        del layer.attributes[KEEPS_DENSE]


def layer_format(layer: ir.Operation) -> Format:
    """Return the format of a verified sparse layer."""
    found = format_of(layer)
    assert found is not None, "the verifier checked it"
    return found


def product_dtype(layer: ir.Operation) -> str | None:
    """Return the element type in which a sparse layer multiplies, as its format says; None if unknown."""
    type_ = tensor_type(layer.operands[1])
    return None if type_ is None or type_.dtype is None else layer_format(layer).multiplied(type_.dtype)
