"""The report's rows of layers that leave out inputs near zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.reports.report import LayerReport, Range

if TYPE_CHECKING:
    from sparseflow.compiler.column_plans import ColumnPlan
    from sparseflow.compiler.decisions import LayerDecision


def column_row(decision: LayerDecision, plan: ColumnPlan, dense_bytes: int) -> LayerReport:
    """Return the row of a layer.

    Args:
        decision: about it.
        plan: of it.
        dense_bytes: those of its weight.
    """
    layer, policy = plan.layer, plan.policy
    read = (1 - layer.rate) * dense_bytes
    others = [name.rpartition(".")[2] for name in decision.merged]
    merged = f"; one product of {len(others)}: {', '.join(others)}" if others else ""
    return LayerReport(
        name=decision.weight.removesuffix(".weight"),
        N=decision.N,
        K=decision.K,
        dtype=decision.dtype,
        decision="contextual",
        reason=(
            f"{layer.rate:.1%} of the inputs are left out, those below {layer.threshold:.4g}: a token reads "
            f"{read / 1e6:.2f} of {dense_bytes / 1e6:.2f} MB, at most {1 / (1 - layer.rate):.2f}× as fast; "
            f"{policy.why()}; sequences of several tokens read all{merged}"
        ),
        ranges=(
            Range(1, policy.m_max, "contextual", policy.speedup),
            Range(policy.m_max + 1, None, "dense", None),
        ),
        bytes_dense=dense_bytes,
        bytes=dense_bytes,
        rel_err=0.0,
        measured=tuple(point for point in policy.measured if point[0] <= policy.m_max),
    )
