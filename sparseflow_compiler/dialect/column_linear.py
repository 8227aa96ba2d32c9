"""``sparse_gemm.column_linear``: a linear layer that leaves out inputs near zero."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import Operand, Result, VerifiedOp, attribute, string_attribute, text_of
from sparseflow.dialect.linear import EPILOGUE, broken_epilogue_rules, broken_type_rules
from sparseflow.dialect.types import types_by_role
from sparseflow.runtime.formats import COLUMNS

FORMAT = "format"
"""Optional attribute: how the weight is stored, of `COLUMNS`."""


class ColumnLinearOp(VerifiedOp, name="column_linear", traits=[ext.Pure]):
    """``y = act(x' · Wᵀ + bias) (+ residual)`` with x ``[…, K]``, W ``[N, K]``, bias ``[N]``, y ``[…, N]``.

    x' is x with 0 for what is smaller in magnitude than ``threshold``, whose columns of W aren't read; for
    more than ``m_max`` rows, and for ``[…, S, K]`` with S > 1, it is x. The optional ``format``, ``int8`` or
    ``fp8``, says that W is stored in 8 bits; the optional ``epilogue`` is one of those of `LinearOp`.
    """

    result: Result
    x: Operand
    weight: Operand
    threshold: ir.FloatAttr
    m_max: ir.IntegerAttr
    bias: Operand | None = None
    residual: Operand | None = None

    def broken_rules(self) -> Iterator[str]:
        """Check the threshold and the number of rows, and the dtypes and shapes of all tensors."""
        threshold, rows = attribute(self, "threshold"), attribute(self, "m_max")
        if not isinstance(threshold, ir.FloatAttr) or not 0 <= threshold.value < float("inf"):
            yield "needs a finite float 'threshold' of at least 0"
        if not isinstance(rows, ir.IntegerAttr) or rows.value < 1:
            yield "needs an integer 'm_max' of at least 1"
        if FORMAT in self.attributes and string_attribute(self, FORMAT) not in COLUMNS:
            yield f"'{FORMAT}' must be one of {', '.join(COLUMNS)}"
        if EPILOGUE in self.attributes:
            yield from broken_epilogue_rules(self)
        types, rule = types_by_role(self.tensors())
        if rule:
            yield rule
            return
        yield from broken_type_rules(types, string_attribute(self, EPILOGUE) or "none")

    def tensors(self) -> dict[str, ir.Value]:
        """Return operands and result by role, without those that are left out."""
        roles = {"x": self.x, "weight": self.weight, "bias": self.bias, "residual": self.residual}
        given = {role: value for role, value in roles.items() if value is not None}
        return given | {"result": self.results[0]}


def column_linear(
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    *,
    threshold: float,
    m_max: int,
    format: str = "",
    epilogue: str = "none",
    result: ir.Type,
) -> ir.Operation:
    """Create the layer at the current insertion point.

    Args:
        x: ``[…, K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.
        residual: of the result's type, added last.
        threshold: inputs smaller in magnitude are left out.
        m_max: the most rows of x of which inputs are left out.
        format: how the weight is stored, of `COLUMNS`; empty: as it is.
        epilogue: one of `EPILOGUES`.
        result: type of the result, ``[…, N]``, ``[…, N/2]`` with a gate.
    """
    numbers = ir.FloatAttr.get_f64(threshold), ir.IntegerAttr.get(ir.IntegerType.get_signless(64), m_max)
    made: ir.Operation = ColumnLinearOp(result, x, weight, *numbers, bias=bias, residual=residual).operation
    if format:
        made.attributes[FORMAT] = ir.StringAttr.get(format)
    if epilogue != "none":
        made.attributes[EPILOGUE] = ir.StringAttr.get(epilogue)
    return made


def column_format(op: ir.Operation) -> str:
    """Return how the layer's weight is stored, of `COLUMNS`; empty: as it is."""
    return text_of(op, FORMAT) if FORMAT in op.attributes else ""
