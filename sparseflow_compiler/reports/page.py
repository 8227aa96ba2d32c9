"""The format-independent content of a page: a title and pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its title.
        right: whether its cells are numbers, aligned to the right.
        long: whether its cells are sentences, shown below the rest of the row.
    """

    heading: str
    right: bool = False
    long: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Key figures: name, value and remark."""

    title: str
    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Bars:
    """Quantities of one kind side by side: label, quantity, and its text."""

    title: str
    items: tuple[tuple[str, float, str], ...]
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A speed-up in a heat map; above 1 is faster.

    Attributes:
        value: the speed-up; None if there is none.
        how: the backend.
    """

    value: float | None
    how: str = ""

    @property
    def text(self) -> str:
        """The text in the heat map."""
        if self.value is None:
            return "–" if self.how else ""
        return f"{self.value:.2f}" if self.value < 9.995 else f"{self.value:.0f}"

    @property
    def strength(self) -> float:
        """The colour strength, from −1 (half as fast or slower) to 1 (twice as fast or faster)."""
        return 0.0 if self.value is None else max(-1.0, min(1.0, math.log2(self.value)))


@dataclass(frozen=True)
class HeatMap:
    """Speed-ups over dense, by layers and M.

    Attributes:
        title: above it.
        rows: the layers or shapes from top to bottom.
        columns: the M's from left to right.
        cells: one for each row and column.
        note: a sentence below it.
        details: more about each row; empty if there is no more.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    note: str = ""
    details: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Each row with its details, in one text."""
        details = self.details or ("",) * len(self.rows)
        return tuple(f"{row} {detail}".rstrip() for row, detail in zip(self.rows, details, strict=True))


@dataclass(frozen=True)
class Pie:
    """Parts of a whole: each a label and its percent."""

    title: str
    slices: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Pies:
    """Wholes side by side, whose slices have the same labels."""

    title: str
    pies: tuple[Pie, ...]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Points joined by a line, and some beside it: each x, y and what it is.

    Attributes:
        title: above it.
        x: what is along the lower edge.
        y: what is along the left edge.
        points: from left to right.
        marked: those beside the line.
        note: a sentence below it.
    """

    title: str
    x: str
    y: str
    points: tuple[tuple[float, float, str], ...]
    marked: tuple[tuple[float, float, str], ...] = ()
    note: str = ""


Piece = Table | Facts | Bars | HeatMap | Pies | Curve


@dataclass(frozen=True)
class Page:
    """A report, ready to be written.

    Attributes:
        title: the page's title.
        about: lines below the title: machine, versions, date.
        pieces: the contents from top to bottom.
    """

    title: str
    about: tuple[str, ...]
    pieces: tuple[Piece, ...]


def figure(value: object) -> str:
    """Format a value for a cell: four digits of a fraction, ✓ or ✗ for a bool."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "✓" if value else "✗"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def megabytes(count: float) -> str:
    """Format bytes in MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def one_line(values: Mapping[str, object]) -> str:
    """Format each scalar entry as ``name value``."""
    return ", ".join(f"{k} {figure(v)}" for k, v in values.items() if not isinstance(v, (dict, list)))
