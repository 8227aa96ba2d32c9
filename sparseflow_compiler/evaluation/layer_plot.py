"""Plot the error of each pruned layer: a panel for each kind of layer, the blocks along its axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.pruning.prune_report import PruneReport
from sparseflow.reports.charts import chart
from sparseflow.reports.grouping import INDEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_PANEL = (2.9, 1.75)
"""Width and height of a panel, in inches."""

_MOST_SINGLES = 16
"""The most layers without others of their kind that are drawn; further ones are counted."""

_LONGEST = 34
"""Characters of a name that are shown; of a longer one its end."""


@dataclass(frozen=True)
class _Point:
    """A pruned layer: its name, its place among those of its kind, and its error."""

    name: str
    place: int
    error: float


def error_by_layer(reports: Mapping[str, PruneReport], path: Path, *, dark: bool = False) -> Path:
    """Draw each pruned layer's error by its block, one line a report and one panel a kind of layer.

    It is the error of the outputs if the layer was calibrated, else of the weights. Where a block has several
    layers of a kind, such as experts, the line is their median and the band goes from the least to the
    largest. Layers without others of their kind share the last panel.

    Args:
        reports: by the name in the legend; of one model.
        path: of the file to write; its suffix says the format.
        dark: whether to draw on dark ground; an .svg follows its reader's setting instead.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    found = {title: _by_kind(report) for title, report in reports.items()}
    sizes: dict[str, int] = {}
    for kinds in found.values():
        for kind, points in kinds.items():
            sizes[kind] = max(sizes.get(kind, 0), len(points))
    series = [kind for kind, size in sizes.items() if size > 1]
    singles = [kind for kind, size in sizes.items() if size == 1]
    panels = len(series) + bool(singles)
    columns = max(1, min(_COLUMNS, panels))
    rows = max(1, math.ceil(panels / columns))
    head = 0.5 + 0.18 * len(reports)
    with chart(path, max(5, _PANEL[0] * columns), head + _PANEL[1] * rows, dark=dark) as figure:
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in places[panels:]:
            axes.set_visible(False)
        top = max((one.error for kinds in found.values() for ps in kinds.values() for one in ps), default=1.0)
        for axes, kind in zip(places, series, strict=False):
            _lines(axes, _title(kind, series), [kinds.get(kind, []) for kinds in found.values()])
            axes.set_ylim(0, top * 1.08 or 1.0)
        if singles:
            _dots(places[len(series)], singles, list(found.values()), top)
        _head(figure, found, reports)
    return path


def _by_kind(report: PruneReport) -> dict[str, list[_Point]]:
    kinds: dict[str, list[_Point]] = {}
    for layer in report.layers:
        error = layer.rel_err if layer.output_err is None else layer.output_err
        if layer.method is not None and error is not None and math.isfinite(error):
            index = INDEX.search(layer.name)
            place = int(index[0]) if index else 0
            kinds.setdefault(INDEX.sub("#", layer.name), []).append(_Point(layer.name, place, error))
    return kinds


def _title(kind: str, kinds: Iterable[str]) -> str:
    """Return as much of a kind's end as no other kind has: ``mlp.up_proj``."""
    parts = kind.split(".")
    for count in range(min(2, len(parts)), len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in kinds) == 1:
            return end
    return kind


def _lines(axes: Axes, title: str, series: Sequence[Sequence[_Point]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, points in enumerate(series):
        at: dict[int, list[float]] = {}
        for point in points:
            at.setdefault(point.place, []).append(point.error)
        blocks = sorted(at)
        medians = [statistics.median(at[block]) for block in blocks]
        axes.plot(blocks, medians, color=f"C{number}", marker="." if len(blocks) <= 48 else "")
        if any(len(errors) > 1 for errors in at.values()):
            low, high = ([pick(at[block]) for block in blocks] for pick in (min, max))
            axes.fill_between(blocks, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(
    axes: Axes, singles: Sequence[str], reports: Sequence[Mapping[str, Sequence[_Point]]], top: float
) -> None:
    shown = singles[:_MOST_SINGLES]
    for number, kinds in enumerate(reports):
        points = [(kinds[kind][0].error, y) for y, kind in enumerate(shown) if kind in kinds]
        axes.plot(*zip(*points, strict=True), "o", color=f"C{number}") if points else None
    names = [next(kinds[kind][0].name for kinds in reports if kind in kinds) for kind in shown]
    short = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in names]
    axes.set_yticks(range(len(shown)), short)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, top * 1.08 or 1.0)
    more = f", and {len(singles) - len(shown)} more" if len(singles) > len(shown) else ""
    axes.set_title(f"one of a kind{more}")


def _head(
    figure: Figure, found: Mapping[str, Mapping[str, Sequence[_Point]]], reports: Mapping[str, PruneReport]
) -> None:
    """Write a line for each report: its colour, name and median error, and the layer with the largest."""
    calibrated = any(layer.output_err is not None for report in reports.values() for layer in report.layers)
    heading = f"Relative error of the {'outputs' if calibrated else 'weights'}, by block"
    lines = []
    for title, kinds in found.items():
        points = [point for kind in kinds.values() for point in kind]
        if points:
            worst = max(points, key=lambda point: point.error)
            median = statistics.median(point.error for point in points)
            title += f": {len(points)} layers, median {median:.3g}, largest {worst.error:.3g} in {worst.name}"
        lines.append(title)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=f"C{number}", linewidth=3) for number in range(len(lines))]
    legend = figure.legend(
        handles, lines, title=heading, loc="outside upper left", alignment="left", title_fontsize="large"
    )
    legend.get_title().set_fontweight("bold")
