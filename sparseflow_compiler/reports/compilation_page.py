"""The page about a compilation."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from sparseflow.reports.grouping import expected, groups
from sparseflow.reports.page import Bars, Cell, Column, Facts, HeatMap, Page, Piece, Table, figure, megabytes
from sparseflow.reports.report import LayerReport, Range, Report
from sparseflow.reports.text import ROWS, measured_calls, served_densely, span
from sparseflow.reports.unpruned import unpruned_line
from sparseflow.support.documents import Document


def compiled_page(data: Mapping[str, object]) -> Page:
    """Make the page of `Report.to_dict()`, with an artifact's manifest under ``artifact``, if any."""
    report = Report.from_dict(data)
    sparse = [layer for layer in report.layers if layer.decision != "dense"]
    pieces: list[Piece] = [key_figures(report)]
    if any(layer.measured for layer in sparse):
        pieces.append(_speedups(sparse))
    if calls := measured_calls(report.model):
        pieces.append(_calls(calls, served_densely(report.model)))
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
    programs = model.get("programs", 0)
    how = [f"{programs} program{'' if programs == 1 else 's'} captured"]
    how += [f"{name} {value}" for name, value in options.items()]
    lines = [unpruned_line(model) or "", ", ".join(how)]
    if artifact is not None:
        versions = ", ".join(f"{name} {version}" for name, version in artifact["versions"].items())
        lines.append(f"saved for {artifact['device']} with {versions}")
        if artifact.get("machine"):
            lines.append(", ".join(f"{name} {value}" for name, value in artifact["machine"].items()))
    return tuple(line for line in lines if line)


def key_figures(report: Report) -> Facts:
    """Return three figures for a reader who knows no layers: how fast, how large, how much is sparse."""
    return Facts("", (_speed(report), _size(report.layers), _share(report.layers)))


def _speed(report: Report) -> tuple[str, str, str]:
    if calls := measured_calls(report.model):
        gains = [gain for *_, gain in calls]
        least, most = (f"{pick(gains):.2f}×" for pick in (min, max))
        _, dense, ours, _ = calls[0]
        what = f"{figure(dense)} → {figure(ours)} ms" if len(calls) == 1 else f"{len(calls)} calls"
        value = least if least == most else f"{least[:-1]}–{most}"
        return "as fast as before", value, f"the whole model, measured: {what}"
    gains_by_m = [(gain, m) for m in ROWS if (gain := expected(report.layers, m)) is not None]
    if report.layers and any(layer.ranges for layer in report.layers) and gains_by_m:
        gain, m = max(gains_by_m)
        return "as fast as before", f"{gain:.2f}×", f"expected of these layers at M={m}; no call was measured"
    return "as fast as before", "–", "not measured"


def _size(layers: Sequence[LayerReport]) -> tuple[str, str, str]:
    dense, now = (sum(getattr(layer, key) for layer in layers) for key in ("bytes_dense", "bytes"))
    if not dense:
        return "memory for weights", "–", "no layer multiplies by a weight"
    saved = 1 - now / dense
    value = "as before" if now == dense else f"{abs(saved):.0%} {'less' if saved > 0 else 'more'}"
    return "memory for weights", value, f"{megabytes(dense)} → {megabytes(now)}, {now / dense:.3f}×"


def _share(layers: Sequence[LayerReport]) -> tuple[str, str, str]:
    sparse = [layer for layer in layers if layer.decision != "dense"]
    whole, held = (sum(layer.N * layer.K for layer in some) for some in (layers, sparse))
    changed = sum(layer.rel_err > 0 for layer in layers)
    cost = (
        f"pruning changed {changed}: sparseflow eval says what it costs"
        if changed
        else "no weight was pruned"
    )
    part = f"{held / whole:.0%} of the weights; " if whole else ""
    return (
        "layers run sparse",
        f"{len(sparse)} of {len(layers)}",
        part + cost,
    )


def _calls(calls: Sequence[tuple[str, float, float, float]], densely: Collection[str]) -> Table:
    columns = (
        Column("call"),
        Column("dense ms", True),
        Column("compiled ms", True),
        Column("speed-up", True),
    )
    rows = tuple(
        (
            title + ", served by the dense model" * (title in densely),
            figure(dense),
            figure(ours),
            f"{gain:.2f}×",
        )
        for title, dense, ours, gain in calls
    )
    return Table("Measured as it was warmed up", columns, rows)


def _speedups(layers: Sequence[LayerReport]) -> HeatMap:
    """Make one row for the layers with the same measured points: those of a shape, or of a merged product."""
    alike: dict[tuple[object, ...], list[LayerReport]] = {}
    for layer in layers:
        if layer.measured:
            alike.setdefault((layer.dtype, layer.format, layer.ranges, layer.measured), []).append(layer)
    ms = sorted({m for layer in layers for m, _ in layer.measured})
    rows = list(alike.values())
    return HeatMap(
        "Measured speed-up over dense, by layer and rows of x",
        tuple(f"{_kinds(row)} ×{len(row)}" if len(row) > 1 else _kinds(row) for row in rows),
        tuple(map(str, ms)),
        tuple(tuple(_cells(row[0], ms)) for row in rows),
        "Along the top M, the rows of x: tokens times sequences. Each figure was measured at that M, of what "
        "runs there; 1.00 where that is dense. Layers that were merged share the figures of their product.",
        tuple(_shapes(row) for row in rows),
    )


def _kinds(layers: Iterable[LayerReport]) -> str:
    kinds = list(dict.fromkeys(layer.name.rpartition(".")[2] for layer in layers))
    return ", ".join(kinds[:3]) + ("…" if len(kinds) > 3 else "")


def _shapes(layers: Iterable[LayerReport]) -> str:
    shapes = list(dict.fromkeys(f"{layer.N}×{layer.K}" for layer in layers))
    return ", ".join(shapes[:3]) + ("…" if len(shapes) > 3 else "")


def _cells(layer: LayerReport, ms: Iterable[int]) -> Iterable[Cell]:
    measured = dict(layer.measured)
    for m in ms:
        backend = next((r.backend for r in reversed(layer.ranges) if r.m_min <= m), "")
        yield Cell(measured[m], backend) if m in measured else Cell(None)


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
