"""Render a page as text that fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sparseflow.reports.page import Bars, Curve, Facts, HeatMap, Page, Piece, Pies, Table
from sparseflow.support.text_table import Column, body, fill


def plain(page: Page, width: int) -> str:
    """Return the page as text of at most `width` characters a line; see `body` for tables that don't fit."""
    head = "".join(f"{fill(line, width)}\n" for line in (page.title, *page.about))
    return head + "".join(f"\n{_piece(piece, width)}" for piece in page.pieces)


def _piece(piece: Piece, width: int) -> str:
    title = f"{fill(piece.title, width)}\n" if piece.title else ""
    note = getattr(piece, "note", "")
    columns, rows = _cells(piece)
    return title + body(columns, rows, width) + (f"{fill(note, width)}\n" if note else "")


def _cells(piece: Piece) -> tuple[Sequence[Column], Sequence[Sequence[str]]]:
    match piece:
        case Facts(items=items):
            facts: Sequence[Column] = (("", "right"), ("", "left"), ("", "left"))
            return facts, [(value, name, note) for name, value, note in items]
        case Bars(items=bars):
            return (("", "left"), ("", "right")), [(label, text) for label, _, text in bars]
        case HeatMap(columns=ms, cells=cells):
            heat: list[Column] = [("×", "left"), *((f"M={m}", "right") for m in ms)]
            lines = zip(piece.labels, cells, strict=True)
            return heat, [(name, *(cell.text for cell in line)) for name, line in lines]
        case Pies(pies=pies):
            rings: list[Column] = [("%", "left"), *((pie.title, "right") for pie in pies)]
            labels = [label for label, _ in pies[0].slices] if pies else []
            return rings, [(label, *(f"{dict(pie.slices)[label]:.1f}" for pie in pies)) for label in labels]
        case Curve(x=x, y=y, points=points, marked=marked):
            axes: Sequence[Column] = ((x, "right"), (y, "right"), ("", "left"))
            return axes, [(f"{left:.4g}", f"{up:.4g}", text) for left, up, text in (*points, *marked)]
        case Table(columns=table_columns, rows=rows):
            aligned: list[Column] = [
                (column.heading, "right" if column.right else "left") for column in table_columns
            ]
            return aligned, rows
