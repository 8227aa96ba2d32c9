"""Tables as plain text, for reports with one line a layer."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

Column: TypeAlias = tuple[str, Literal["left", "right"]]
"""A heading, and how the cells below it are aligned."""


def text_table(
    title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], notes: Iterable[str], width: int
) -> str:
    """Return a titled table, followed by notes, as text; long cells and notes are wrapped.

    Args:
        title: the first line.
        columns: the columns from left to right.
        rows: one cell for each column.
        notes: sentences below the table.
        width: characters a line.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for heading, justify in columns:
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False, force_jupyter=False)
    console.print(table)
    for note in notes:
        console.print(note)
    return text.getvalue()
