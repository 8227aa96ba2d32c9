"""The report's rows of layers that leave out inputs near zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.reports.report import LayerReport, Range
from sparseflow.runtime.formats import find

if TYPE_CHECKING:
    from sparseflow.compiler.column_plans import ColumnPlan
    from sparseflow.compiler.decisions import LayerDecision
    from sparseflow.reports.report import FormatError


def column_row(
    decision: LayerDecision, plan: ColumnPlan, dense_bytes: int, format_error: FormatError | None
) -> LayerReport:
    """Return the row of a layer.

    Args:
        decision: about it.
        plan: of it.
        dense_bytes: those of its weight.
        format_error: of its format; None if the weight is stored as it is.
    """
    layer, policy = plan.layer, plan.policy
    stored = find(decision.format) if decision.format else None
    size = dense_bytes if stored is None else stored.nbytes(decision.N, decision.K, decision.dtype)
    read = (1 - layer.rate) * size
    kind = "" if format_error is None else f"in {plan.format}, relative error {format_error.weight:.1%}; "
    others = [name.rpartition(".")[2] for name in decision.merged]
    merged = f"; one product of {len(others)}: {', '.join(others)}" if others else ""
    return LayerReport(
        name=decision.weight.removesuffix(".weight"),
        N=decision.N,
        K=decision.K,
        dtype=decision.dtype,
        decision="contextual",
        reason=(
            f"{kind}{layer.rate:.1%} of the inputs are left out, those below {layer.threshold:.4g}: a token "
            f"reads {read / 1e6:.2f} of {dense_bytes / 1e6:.2f} MB, at most "
            f"{dense_bytes / max(read, 1):.2f}× as fast; {policy.why()}; "
            f"sequences of several tokens read all{merged}"
        ),
        ranges=(
            Range(1, policy.m_max, "contextual", policy.speedup),
            Range(policy.m_max + 1, None, "dense", None),
        ),
        bytes_dense=dense_bytes,
        bytes=size,
        rel_err=0.0,
        format="" if stored is None else plan.format,
        format_err=format_error,
        measured=tuple(point for point in policy.measured if point[0] <= policy.m_max),
    )
