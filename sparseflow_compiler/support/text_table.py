"""Tables as plain text that fit a width: as columns, or one record a row where columns don't fit."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from rich.table import Table

Column: TypeAlias = tuple[str, Literal["left", "right"]]
"""A heading, and how the cells below it are aligned."""

_FOLDED = 24
"""The least width that a column of text is folded to; below it a row becomes a record."""

_GAP = 2
"""Spaces between two columns."""


def text_table(
    title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], notes: Iterable[str], width: int
) -> str:
    """Return a titled table, followed by notes, as text; long cells and notes are wrapped.

    Args:
        title: the first line; left out if empty.
        columns: the columns from left to right.
        rows: one cell for each column.
        notes: sentences below the table.
        width: characters a line.
    """
    head = f"{fill(title, width)}\n" if title else ""
    return head + body(columns, rows, width) + "".join(f"{fill(note, width)}\n" for note in notes)


def body(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int) -> str:
    """Return a table without a title, at most `width` characters wide unless a word is wider.

    Nothing is cut. If the columns don't fit, those aligned to the left are folded; if they became narrower
    than 24 characters, each row becomes a record, as in psql's expanded form: its first cell, then headings
    with their cells.

    Args:
        columns: the columns from left to right.
        rows: one cell for each column.
        width: characters a line.
    """
    lines = [list(row) for row in rows]
    natural = _widths(columns, lines)
    room = width - _GAP * (len(columns) - 1)
    least = [
        min(wide, _FOLDED) if justify == "left" else wide
        for wide, (_, justify) in zip(natural, columns, strict=True)
    ]
    if sum(least) > room:
        return "".join(_record(columns, line, width) for line in lines)
    return _printed(_table(columns, lines), width)


def fill(text: str, width: int) -> str:
    """Return a sentence in lines of at most `width` characters, the later ones indented."""
    return "\n".join(
        textwrap.fill(line, max(width, 3), subsequent_indent="  ", break_on_hyphens=False)
        for line in text.split("\n")
    )


def _widths(columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    cells = [[heading for heading, _ in columns], *lines]
    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _record(columns: Sequence[Column], line: Sequence[str], width: int) -> str:
    """Return one row: its first cell that isn't empty, then "heading cell" pairs, as many a line as fit."""
    named = [(heading, cell) for (heading, _), cell in zip(columns, line, strict=True) if cell]
    if not named:
        return ""
    (_, title), *pairs = named
    # A pair stays together: its spaces become ones that textwrap doesn't break at.
    short = [
        " ".join(filter(None, pair)).replace(" ", "\N{NO-BREAK SPACE}")
        for pair in pairs
        if sum(map(len, pair)) < width - 3
    ]
    long = [" ".join(filter(None, pair)) for pair in pairs if sum(map(len, pair)) >= width - 3]
    parts = [_indented("  ".join(short), width), *(_indented(text, width) for text in long)]
    kept = (part.replace("\N{NO-BREAK SPACE}", " ") for part in parts if part)
    return "".join(f"{part}\n" for part in itertools.chain([fill(title, width)], kept))


def _indented(text: str, width: int) -> str:
    indent = "  "
    return textwrap.fill(
        text, max(width, 4), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _table(columns: Sequence[Column], lines: Iterable[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table

    named = any(heading for heading, _ in columns)
    table = Table(
        box=box.SIMPLE_HEAD, show_header=named, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1)
    )
    for heading, justify in columns:
        table.add_column(heading, justify=justify, no_wrap=justify == "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def _printed(table: Table, width: int) -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width, markup=False, force_jupyter=False, highlight=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
