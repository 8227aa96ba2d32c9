"""A page as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparseflow.reports.page import Bars, Column, Facts, HeatMap, Page, Piece, Pies, Table


def markdown(page: Page) -> str:
    """The page as Markdown: every piece becomes a table."""
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
        case HeatMap(rows=rows, columns=columns, cells=cells):
            body = ((row, *(cell.text for cell in line)) for row, line in zip(rows, cells, strict=True))
            return _table((Column("N×K"), *(Column(f"M={m}", True) for m in columns)), body)
        case Pies(pies=pies):
            columns_of_pies = (Column(""), *(Column(pie.title, True) for pie in pies))
            labels = [label for label, _ in pies[0].slices] if pies else []
            return _table(
                columns_of_pies,
                ((label, *(f"{dict(pie.slices)[label]:.1f} %" for pie in pies)) for label in labels),
            )
        case Table(columns=table_columns, rows=table_rows):
            return _table(table_columns, table_rows)


def _table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    rule = ["--:" if column.right else ":--" for column in columns]
    lines = [[column.heading for column in columns], rule, *rows]
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
