"""Render a page as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparseflow.reports.page import Bars, Column, Curve, Facts, HeatMap, Page, Piece, Pies, Table

_PADDED = 40
"""The most characters that a cell is padded to."""


def markdown(page: Page) -> str:
    """Return the page as Markdown: every piece becomes a table."""
    head = [f"# {page.title}", *(f"{line}  " for line in page.about)]
    return "\n".join(head) + "\n" + "".join(f"\n{_piece(piece)}" for piece in page.pieces)


def _piece(piece: Piece) -> str:
    title = f"## {piece.title}\n\n" if piece.title else ""
    note = getattr(piece, "note", "")
    return f"{title}{_body(piece)}" + (f"\n{note}\n" if note else "")


def _body(piece: Piece) -> str:
    match piece:
        case Facts(items=items):
            return "".join(f"- **{value}** {name}, {note}\n" for name, value, note in items)
        case Bars(items=items):
            return _table((Column(""), Column("", True)), ((label, text) for label, _, text in items))
        case HeatMap(columns=columns, cells=cells):
            lines = zip(piece.labels, cells, strict=True)
            body = ((label, *(cell.text for cell in line)) for label, line in lines)
            return _table((Column("N×K"), *(Column(f"M={m}", True) for m in columns)), body)
        case Pies(pies=pies):
            columns_of_pies = (Column(""), *(Column(pie.title, True) for pie in pies))
            labels = [label for label, _ in pies[0].slices] if pies else []
            return _table(
                columns_of_pies,
                ((label, *(f"{dict(pie.slices)[label]:.1f} %" for pie in pies)) for label in labels),
            )
        case Curve(x=x, y=y, points=points, marked=marked):
            shown = ((f"{left:.4g}", f"{up:.4g}", text) for left, up, text in (*points, *marked))
            return _table((Column(x, True), Column(y, True), Column("")), shown)
        case Table(columns=table_columns, rows=table_rows):
            return _table(table_columns, table_rows)


def _table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    lines = [[column.heading for column in columns], *([_escaped(cell) for cell in row] for row in rows)]
    widths = [min(_PADDED, max(3, *(len(line[i]) for line in lines))) for i in range(len(columns))]
    rule = [
        "-" * (width - 1) + ":" if c.right else "-" * width for c, width in zip(columns, widths, strict=True)
    ]
    lines.insert(1, rule)
    return "".join(f"| {' | '.join(_aligned(line, columns, widths))} |\n" for line in lines)


def _aligned(line: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterable[str]:
    """Pad cells to the width of their column, so that the source is readable."""
    for text, column, width in zip(line, columns, widths, strict=True):
        yield text.rjust(width) if column.right else text.ljust(width)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
