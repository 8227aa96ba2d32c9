"""The page about a compilation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from sparseflow.reports.grouping import groups
from sparseflow.reports.page import Bars, Cell, Column, Facts, HeatMap, Page, Piece, Table, figure, megabytes
from sparseflow.reports.report import LayerReport, Range, Report
from sparseflow.reports.text import measured_calls, span
from sparseflow.reports.unpruned import unpruned_line
from sparseflow.support.documents import Document

_LARGEST_M = 16384


def compiled_page(data: Mapping[str, object]) -> Page:
    """Make the page of `Report.to_dict()`, with an artifact's manifest under ``artifact``, if any."""
    report = Report.from_dict(data)
    sparse = [layer for layer in report.layers if layer.decision != "dense"]
    pieces: list[Piece] = [_facts(report, sparse)]
    if any(entry.speedup for layer in sparse for entry in layer.ranges):
        pieces.append(_speedups(sparse))
    if calls := measured_calls(report.model):
        pieces.append(_calls(calls))
    pieces.append(_memory(report.layers))
    if sparse:
        pieces.append(_quality(sparse))
    pieces.append(_layers(report.layers))
    if seconds := _seconds(report.model):
        pieces.append(seconds)
    return Page(str(report.model.get("name", "model")), _about(data), tuple(pieces))


def _about(data: Document) -> tuple[str, ...]:
    model, artifact = data["model"], data.get("artifact")
    options = {name: model[name] for name in ("prune", "memory", "format") if model.get(name)}
    lines = [unpruned_line(model) or "", ", ".join(f"{name} {value}" for name, value in options.items())]
    if artifact is not None:
        versions = ", ".join(f"{name} {version}" for name, version in artifact["versions"].items())
        lines.append(f"saved for {artifact['device']} with {versions}")
        if artifact.get("machine"):
            lines.append(", ".join(f"{name} {value}" for name, value in artifact["machine"].items()))
    return tuple(line for line in lines if line)


def _facts(report: Report, sparse: Sequence[LayerReport]) -> Facts:
    dense, now = (sum(getattr(layer, key) for layer in report.layers) for key in ("bytes_dense", "bytes"))
    speedups = [entry.speedup for layer in sparse for entry in layer.ranges if entry.speedup]
    items = [
        ("sparse layers", f"{len(sparse)} of {len(report.layers)}", "that multiply by a weight"),
        ("weights", f"{now / dense:.3f}×" if dense else "–", "of dense, all layers"),
        ("programs", str(report.model.get("programs", 0)), "captured"),
    ]
    if speedups:
        items.insert(1, ("best speed-up", f"{max(speedups):.2f}×", "the least in its range of M"))
    return Facts("", tuple(items))


def _calls(calls: Sequence[tuple[str, float, float, float]]) -> Table:
    columns = (
        Column("call"),
        Column("dense ms", True),
        Column("compiled ms", True),
        Column("speed-up", True),
    )
    rows = tuple((title, figure(dense), figure(ours), f"{gain:.2f}×") for title, dense, ours, gain in calls)
    return Table("Measured as it was warmed up", columns, rows)


def _speedups(layers: Sequence[LayerReport]) -> HeatMap:
    """Make one row for each shape and its ranges; merged layers share the ranges of their product."""
    groups: dict[tuple[str, tuple[Range, ...]], list[str]] = {}
    for layer in layers:
        groups.setdefault((f"{layer.N}×{layer.K}", layer.ranges), []).append(layer.name)
    last = max(entry.m_min for _, ranges in groups for entry in ranges)
    ms = [1 << i for i in range(_LARGEST_M.bit_length()) if 1 << i <= max(1024, 2 * last)]
    return HeatMap(
        "Speed-up over dense, by layer shape and rows of x",
        tuple(f"{shape} {_kinds(names)}" for (shape, _), names in groups.items()),
        tuple(map(str, ms)),
        tuple(tuple(_cell(ranges, m) for m in ms) for _, ranges in groups),
        "N×K, and M along the top. Of each range of M the least speed-up that was measured in it; what runs "
        "is in the table of layers. Projections that were merged share the figures of their product.",
    )


def _kinds(names: Iterable[str]) -> str:
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return ", ".join(kinds[:3]) + ("…" if len(kinds) > 3 else "")


def _cell(ranges: Sequence[Range], m: int) -> Cell:
    found = [r for r in ranges if r.m_min <= m and (r.m_max is None or m <= r.m_max)]
    return Cell(found[-1].speedup, found[-1].backend) if found else Cell(None)


def _memory(layers: Sequence[LayerReport]) -> Bars:
    items = [
        (title, float(count), megabytes(count))
        for title, count in (
            ("dense", sum(layer.bytes_dense for layer in layers)),
            ("compiled", sum(layer.bytes for layer in layers)),
        )
    ]
    return Bars("Memory of the layers' weights", tuple(items))


def _quality(sparse: Sequence[LayerReport]) -> Table:
    """Return the error that pruning and formats caused in the sparse layers."""
    measures: dict[str, dict[str, float]] = {
        "weight, by pruning": {layer.name: layer.rel_err for layer in sparse}
    }
    for layer in sparse:
        if (lost := layer.format_err) is not None:
            for what, error in (("weight", lost.weight), ("output", lost.output)):
                if error is not None:
                    measures.setdefault(f"{what}, by {layer.format}", {})[layer.name] = error
    rows = [
        (
            what,
            f"{statistics.median(errors.values()):.3f}",
            f"{max(errors.values()):.3f}",
            max(errors, key=errors.__getitem__),
        )
        for what, errors in measures.items()
        if errors
    ]
    columns = (Column("relative error"), Column("median", True), Column("largest", True), Column("in"))
    note = "‖W − W'‖ / ‖W‖ in the Frobenius norm. What it does to the model is for an evaluation to say."
    return Table("Quality", columns, tuple(rows), note)


def _layers(layers: Sequence[LayerReport]) -> Table:
    columns = (
        Column("layer"),
        Column("N×K", True),
        Column("dtype"),
        Column("runs"),
        Column("MB dense", True),
        Column("MB now", True),
        Column("rel. err", True),
        Column("ranges", long=True),
        Column("reason", long=True),
    )
    rows = tuple(
        (
            group.title,
            f"{group.first.N}×{group.first.K}",
            group.first.dtype,
            group.first.decision,
            f"{group.bytes_dense / 1e6:.2f}",
            f"{group.bytes / 1e6:.2f}",
            f"{group.rel_err:.3f}",
            "; ".join(map(_range, group.ranges)),
            group.reason,
        )
        for group in groups(layers)
    )
    note = "Layers that are alike share a row: bytes of all, the largest error, the first one's reason."
    return Table("Layers", columns, rows, note)


def _range(entry: Range) -> str:
    gain = "" if entry.speedup is None else f" {entry.speedup:.2f}×"
    return f"{span(entry.m_min, entry.m_max)} {entry.backend}{gain}"


def _seconds(model: Document) -> Table | None:
    parts = {**model.get("compilations", {}).get("seconds", {})}
    rows = tuple((part, figure(float(seconds))) for part, seconds in parts.items())
    return Table("Compiling", (Column("part"), Column("seconds", True)), rows) if rows else None
