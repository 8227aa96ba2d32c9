"""The report of a compilation as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseflow.reports.grouping import Group, expected, groups
from sparseflow.reports.page import megabytes
from sparseflow.reports.unpruned import unpruned_line
from sparseflow.support.text_table import Column, body, fill

if TYPE_CHECKING:
    from sparseflow.reports.report import LayerReport, Range, Report

ROWS = (1, 16, 256, 2048)
"""The M's for which a table states a layer's speed-up."""

MOST_GROUPS = 24
"""The most lines of a table; further groups are counted."""

MOST_CALLS = 4
"""The most calls that are shown with their figures; further ones are counted."""


def report_table(report: Report, width: int, *, expand: bool) -> str:
    """Return the whole report as text; see `Report.table`."""
    head = "\n".join(fill(line, width) for line in _head(report))
    if expand:
        return f"{head}\n{body(_EXPANDED, map(_expanded, report.layers), width)}"
    found = groups(report.layers)
    shown = sorted(found, key=lambda group: -group.bytes_dense)[:MOST_GROUPS]
    lines = body(_GROUPED, [_grouped(group) for group in found if group in shown], width)
    notes = "".join(f"{textwrap.shorten(note, width, placeholder=' …')}\n" for note in dense_notes(shown))
    left = len(found) - len(shown)
    more = f"… and {left} smaller groups: report.table(expand=True) has every layer\n" if left else ""
    return f"{head}\n{lines}{more}{notes}"


def layer_table(layer: LayerReport) -> str:
    """Return one layer as text; see `LayerReport.table`."""
    rows = [(span(r.m_min, r.m_max), r.backend, _gain(r.speedup)) for r in layer.ranges]
    columns: tuple[Column, ...] = (("M", "left"), ("runs", "left"), ("least gain", "right"))
    head = f"{layer.name}: {layer.N}×{layer.K} {layer.dtype}, {layer.decision}"
    return f"{head}\n{body(columns, rows, 100) if rows else ''}{layer.reason}\n"


def _head(report: Report) -> Iterable[str]:
    if line := unpruned_line(report.model):
        yield line
    layers = report.layers
    sparse = sum(layer.decision == "sparse" for layer in layers)
    contextual = sum(layer.decision == "contextual" for layer in layers)
    how = f", {contextual} contextual" if contextual else ""
    programs = report.model.get("programs", 0)
    yield (
        f"{report.model.get('name', 'model')}: {sparse} of {len(layers)} layers sparse{how}, "
        f"{programs} program{'' if programs == 1 else 's'}"
    )
    dense, now = sum(layer.bytes_dense for layer in layers), sum(layer.bytes for layer in layers)
    if dense:
        yield f"weights of these layers: {megabytes(dense)} dense, {megabytes(now)} now, {now / dense:.3f}×"
    found = [(m, gain) for m in ROWS if (gain := expected(layers, m)) is not None]
    if sparse and found:
        yield "expected of these layers together: " + ", ".join(f"{gain:.2f}× at M={m}" for m, gain in found)
    yield from _measured(report.model)


def _measured(model: Mapping[str, Any]) -> Iterable[str]:
    """Yield lines about the calls measured by warming up: those that gain least, and a count of others."""
    if reason := model.get("not_measured"):
        yield f"not measured beside dense: {reason}"
    calls, densely = measured_calls(model), served_densely(model)
    for title, dense, compiled, speedup in calls[:MOST_CALLS]:
        line = f"measured: {title}: dense {dense:.3g} ms, compiled {compiled:.3g} ms, {speedup:.2f}×"
        yield line + (", so the dense model serves it" if title in densely else "")
    if left := calls[MOST_CALLS:]:
        yield f"measured: {len(left)} other calls, {left[0][3]:.2f}× to {left[-1][3]:.2f}×"


def served_densely(model: Mapping[str, Any]) -> set[str]:
    """Return the names of warmed-up calls that the dense model serves."""
    return {one["call"] for one in model.get("measured", ()) if one.get("runs_dense")}


def measured_calls(model: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """Return (name, ms dense, ms compiled, speed-up) of each warmed-up call, the least speed-up first."""
    found = [(one["call"], one["dense_ms"], one["compiled_ms"]) for one in model.get("measured", ())]
    return sorted(((*one, one[1] / one[2]) for one in found), key=lambda one: one[3])


_GROUPED: tuple[Column, ...] = (
    ("layers", "left"),
    ("N×K", "right"),
    ("dtype", "left"),
    ("runs", "left"),
    ("MB", "right"),
    ("error", "right"),
    ("gain", "right"),
)


def _grouped(group: Group) -> tuple[str, ...]:
    return (
        group.title,
        f"{group.first.N}×{group.first.K}",
        group.first.dtype,
        group.first.decision,
        f"{group.bytes / 1e6:.1f}",
        f"{group.rel_err:.2f}" if group.rel_err else "",
        gains(group.ranges),
    )


_EXPANDED: tuple[Column, ...] = (
    ("layer", "left"),
    ("N×K", "right"),
    ("dtype", "left"),
    ("runs", "left"),
    ("MB dense", "right"),
    ("MB now", "right"),
    ("rel. err", "right"),
    ("reason", "left"),
)


def _expanded(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.N}×{layer.K}",
        layer.dtype,
        layer.decision,
        f"{layer.bytes_dense / 1e6:.2f}",
        f"{layer.bytes / 1e6:.2f}",
        f"{layer.rel_err:.3f}",
        layer.reason,
    )


def dense_notes(found: Sequence[Group]) -> Iterable[str]:
    """Yield the reasons why layers are dense, each once."""
    reasons: dict[str, list[str]] = {}
    for group in found:
        if group.first.decision == "dense":
            reasons.setdefault(group.reason, []).append(group.name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        yield f"dense: {', '.join(names[:2])}{more}: {reason}"


def span(first: int, last: int | None) -> str:
    """Return the M's of a range as text: ``1–64``, ``65…``, ``7``."""
    return f"{first}…" if last is None else f"{first}–{last}" if last != first else f"{first}"


def gains(ranges: Sequence[Range]) -> str:
    """Return the least and largest measured speed-up of the sparse ranges as text."""
    found = [r.speedup for r in ranges if r.speedup is not None and r.backend != "dense"]
    if not found:
        return ""
    low, high = f"{min(found):.2f}", f"{max(found):.2f}×"
    return high if high.startswith(low) else f"{low}–{high}"


def _gain(speedup: float | None) -> str:
    return "" if speedup is None else f"{speedup:.2f}×"
