"""Render a page's charts and figures as one PNG."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from sparseflow.reports.charts import styled
from sparseflow.reports.colours import DARK, LIGHT, Palette
from sparseflow.reports.page import Bars, Cell, Curve, Facts, HeatMap, Page, Piece, Pies, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Room = tuple[float, float, float, float]
"""Left, bottom, width and height as shares of the picture's size."""

_WIDTH = 11.0
_ROWS = 12
_TABLE_COLUMNS = 7


def png(page: Page, *, dark: bool = False) -> bytes:
    """Return the page as a PNG: all charts and the first rows of long tables.

    Args:
        page: the page.
        dark: whether to draw on dark ground.

    Raises:
        MissingDependencyError: matplotlib is missing.
    """
    palette = DARK if dark else LIGHT
    with styled("--png", dark=dark):
        from matplotlib.figure import Figure

        heights = [_height(piece) for piece in page.pieces]
        about = [part for line in page.about for part in textwrap.wrap(line, 150)]
        head = 0.6 + 0.17 * len(about)
        whole = head + sum(heights)
        picture = Figure(figsize=(_WIDTH, whole))
        picture.text(0.03, 1 - 0.15 / whole, page.title, fontsize=15, fontweight="bold", va="top")
        picture.text(0.03, 1 - 0.45 / whole, "\n".join(about), fontsize=7.5, color=palette.quiet, va="top")
        top = 1 - head / whole
        for piece, height in zip(page.pieces, heights, strict=True):
            above = (
                0.75 if isinstance(piece, Curve | HeatMap | Pies) else 0.55
            )  # these have their own headings
            room = (0.03, top - (height - 0.2) / whole, 0.94, (height - above) / whole)
            picture.text(0.03, top - 0.1 / whole, piece.title, fontsize=10, fontweight="bold", va="top")
            _draw(picture, piece, room, palette)
            top -= height / whole
        file = io.BytesIO()
        picture.savefig(file, format="png", dpi=140)
    return file.getvalue()


def _height(piece: Piece) -> float:
    """Return the height in inches, including title and space below."""
    match piece:
        case Facts():
            return 1.1
        case Bars(items=items):
            return 0.7 + 0.3 * len(items)
        case HeatMap(rows=rows):
            return 1.1 + 0.26 * len(rows)
        case Pies():
            return 2.9
        case Curve():
            return 3.9
        case Table(rows=table_rows):
            return 0.9 + 0.2 * min(len(table_rows), _ROWS + 1)


def _draw(picture: Figure, piece: Piece, room: Room, palette: Palette) -> None:
    match piece:
        case Facts():
            _facts(picture, piece, room, palette)
        case Bars():
            _bars(_axes(picture, room, left=0.1, right=0.1), piece, palette)
        case HeatMap():
            labels = max(map(len, piece.labels), default=0)
            _heat(_axes(picture, room, left=0.006 * labels + 0.02), piece, palette)
        case Pies():
            _pies(picture, piece, room, palette)
        case Curve():
            below = 0.18 * room[3]  # for the numbers and the name of the lower axis
            higher = (room[0], room[1] + below, room[2], room[3] - below)
            _curve(_axes(picture, higher, left=0.06), piece, palette)
        case Table():
            _table(picture, piece, room, palette)


def _axes(picture: Figure, room: Room, left: float = 0.0, right: float = 0.0) -> Axes:
    axes = picture.add_axes((room[0] + left, room[1], room[2] - left - right, room[3]))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)
    return axes


def _facts(picture: Figure, piece: Facts, room: Room, palette: Palette) -> None:
    for place, (name, value, note) in enumerate(piece.items):
        x = room[0] + place * room[2] / len(piece.items)
        picture.text(x, room[1] + room[3], value, fontsize=15, fontweight="bold", va="top")
        text = textwrap.fill(f"{name}: {note}", 52)
        picture.text(x, room[1] + 0.45 * room[3], text, fontsize=7, color=palette.quiet, va="top")


def _bars(axes: Axes, piece: Bars, palette: Palette) -> None:
    labels = [label for label, _, _ in piece.items]
    colours = [palette.series[3], *palette.series][: len(labels)]
    bars = axes.barh(labels, [size for _, size, _ in piece.items], color=colours)
    axes.bar_label(bars, [text for _, _, text in piece.items], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xticks([])


def _heat(axes: Axes, piece: HeatMap, palette: Palette) -> None:
    image = [[_colour(cell, palette) for cell in line] for line in piece.cells]
    axes.imshow(image, aspect="auto")
    for y, line in enumerate(piece.cells):
        for x, cell in enumerate(line):
            axes.text(x, y, cell.text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(piece.columns)), piece.columns)
    axes.set_yticks(range(len(piece.rows)), piece.labels)
    axes.xaxis.tick_top()
    axes.set_xticks([x - 0.5 for x in range(1, len(piece.columns))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(piece.rows))], minor=True)
    axes.grid(visible=True, which="minor", axis="both", color=palette.page, linewidth=2)
    axes.tick_params(which="minor", length=0)


def _colour(cell: Cell, palette: Palette) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    if not cell.text:
        return to_rgb(palette.page)
    neutral, end = to_rgb(palette.neutral), to_rgb(palette.faster if cell.strength >= 0 else palette.slower)
    red, green, blue = (n + abs(cell.strength) * (e - n) for n, e in zip(neutral, end, strict=True))
    return red, green, blue


def _pies(picture: Figure, piece: Pies, room: Room, palette: Palette) -> None:
    width = room[2] / max(1, len(piece.pies))
    for place, pie in enumerate(piece.pies):
        axes = picture.add_axes((room[0] + place * width, room[1], width * 0.5, room[3]))
        axes.pie(
            [percent for _, percent in pie.slices],
            colors=palette.series,
            startangle=90,
            counterclock=False,
            wedgeprops={"width": 0.42, "edgecolor": palette.page},
        )
        axes.set_title(pie.title, fontsize=8)
        labels = [f"{label}  {percent:.1f} %" for label, percent in pie.slices]
        axes.legend(labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _curve(axes: Axes, piece: Curve, palette: Palette) -> None:
    axes.grid(visible=True, axis="y", color=palette.line)
    axes.plot([x for x, _, _ in piece.points], [y for _, y, _ in piece.points], marker="o")
    for x, y, text in piece.marked:
        axes.plot([x], [y], marker="o", markersize=8, color=palette.series[1])
        axes.annotate(text, (x, y), xytext=(0, 8), textcoords="offset points", ha="center", fontweight="bold")
    axes.set_xlabel(piece.x, loc="right")
    axes.set_title(piece.y, fontsize=8, color=palette.quiet)


def _table(picture: Figure, piece: Table, room: Room, palette: Palette) -> None:
    shown = [i for i, column in enumerate(piece.columns) if not column.long][:_TABLE_COLUMNS]
    rows = [[row[i][:42] for i in shown] for row in piece.rows[:_ROWS]]
    if len(piece.rows) > _ROWS:
        rows.append([f"… {len(piece.rows) - _ROWS} more", *("" for _ in shown[1:])])
    widths = [max(len(piece.columns[i].heading), *(len(row[i]) for row in rows), 3) for i in shown]
    lines = [[piece.columns[i].heading for i in shown], *rows]
    step, x = room[3] / max(1, len(lines)), room[0]
    # The width of a character: relative to the table if it is wide, else a usual one.
    unit = min(room[2] / (sum(widths) + 2 * len(widths)), 0.0075)
    for i, width in zip(shown, widths, strict=True):
        right = piece.columns[i].right
        end = x + unit * width
        for place, line in enumerate(lines):
            y = room[1] + room[3] - place * step
            picture.text(
                end if right else x,
                y,
                line[i],
                fontsize=7,
                va="top",
                ha="right" if right else "left",
                color=palette.ink if place else palette.quiet,
            )
        x = end + 2 * unit
