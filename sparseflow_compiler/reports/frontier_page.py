"""The page of pruning within a budget: the frontier of loss and saving, and what each layer could be."""

from __future__ import annotations

from sparseflow.reports.page import Bars, Column, Curve, Facts, Page, Piece, Table, megabytes
from sparseflow.support.documents import Document

_DENSE = "dense"


def frontier_page(title: str, found: Document) -> Page:
    """Make the page of a budget, given as `BudgetReport.to_dict` returns it."""
    budget = found["budget"]
    pieces: list[Piece] = [_facts(budget)]
    if budget["frontier"]:
        pieces += [_curve(budget), _frontier(budget)]
    pieces += [_patterns(budget), _layers(budget)]
    return Page(title, tuple(found["notes"]), tuple(pieces))


def _facts(budget: Document) -> Facts:
    items = [("loss", f"{budget['loss']:.4f}", _allowed(budget))]
    if budget["recovery"] != 1:
        note = f"{budget['unit']}, if recovery divides it by {budget['recovery']:g}"
        items.append(("loss expected after recovery", f"{budget['expected_loss']:.4f}", note))
    items.append(("saved", _amount(budget, budget["saved"]), f"of {_amount(budget, budget['saved_most'])}"))
    note = f"of {megabytes(budget['bytes_dense'])} dense"
    if budget["max_bytes"] is not None:
        note += f"; {megabytes(budget['max_bytes'])} allowed"
    items.append(("weights", megabytes(budget["nbytes"]), note))
    return Facts("In short", tuple(items))


def _allowed(budget: Document) -> str:
    if budget["max_loss"] is None:
        return str(budget["unit"])
    return f"{budget['unit']}, of {budget['max_loss'] * budget['recovery']:.4f} allowed"


def _amount(budget: Document, saved: float) -> str:
    return megabytes(saved) if budget["saved_unit"] == "bytes" else f"{saved:.4g} µs"


def _saved_share(budget: Document, saved: float) -> float:
    return 100 * saved / budget["saved_most"] if budget["saved_most"] else 0.0


def _curve(budget: Document) -> Curve:
    points = tuple(
        (_saved_share(budget, point["saved"]), point["loss"], _counts(point)) for point in budget["frontier"]
    )
    chosen = (_saved_share(budget, budget["saved"]), budget["loss"], "chosen")
    at = f", at M = {', '.join(map(str, budget['ms']))}" if budget["saved_unit"] == "µs" else ""
    unit = "time" if budget["saved_unit"] == "µs" else "bytes"
    note = "Models that no other choice of patterns is expected to beat; losses are measured before recovery."
    x = f"{unit} saved, % of what all layers could save{at}"
    return Curve("Loss against saving", x, f"loss, {budget['unit']}", points, (chosen,), note)


def _counts(point: Document) -> str:
    return ", ".join(f"{count} {pattern}" for pattern, count in point["layers"].items())


def _frontier(budget: Document) -> Table:
    columns = (Column("loss", True), Column("saved", True), Column("weights", True), Column("layers"))
    rows = tuple(
        (
            f"{point['loss']:.4f}",
            _amount(budget, point["saved"]),
            megabytes(point["nbytes"]),
            _counts(point),
        )
        for point in budget["frontier"]
    )
    return Table("Frontier", columns, rows)


def _patterns(budget: Document) -> Bars:
    counts: dict[str, int] = {}
    for choice in budget["choices"]:
        counts[choice["pattern"]] = counts.get(choice["pattern"], 0) + 1
    order = sorted(counts, key=lambda pattern: (pattern != _DENSE, pattern))
    bars = tuple((pattern, float(counts[pattern]), f"{counts[pattern]} layers") for pattern in order)
    return Bars("Layers by chosen pattern", bars)


def _layers(budget: Document) -> Table:
    sparse = list(budget["loss_all"])
    columns = [Column("layer"), Column("chosen")]
    for pattern in sparse:
        columns += [Column(f"{pattern}: loss", True), Column("saved", True)]
    rows = []
    for choice in budget["choices"]:
        cells = [choice["name"], choice["pattern"]]
        for option in choice["options"]:
            if option["pattern"] != _DENSE:
                cells += [f"{option['loss']:.5f}", _amount(budget, option["saved"])]
        rows.append(tuple(cells))
    note = "Losses are those of the model with this layer alone in the pattern."
    return Table("Layers", tuple(columns), tuple(rows), note)
