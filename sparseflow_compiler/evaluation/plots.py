"""Plot reports to files. matplotlib is imported on first use."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError
from sparseflow.pruning.prune_report import PruneReport
from sparseflow.support.extras import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL = 16
"""Characters in a line of a bar's label."""


def error_by_layer(reports: Mapping[str, PruneReport], path: Path) -> Path:
    """Draw each pruned layer's error, one line a report.

    It is the error of the outputs if the layer was calibrated, else of the weights.

    Args:
        reports: by the name in the legend; of one model.
        path: of the file to write; its suffix says the format.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    figure, axes = _axes(12, 4)
    for name, report in reports.items():
        pruned = [layer for layer in report.layers if layer.method is not None]
        errors = [layer.rel_err if layer.output_err is None else layer.output_err for layer in pruned]
        heights = [math.nan if error is None else error for error in errors]
        axes.plot([layer.name for layer in pruned], heights, marker=".", label=name)
    axes.set_ylabel("relative error")
    axes.tick_params(axis="x", labelrotation=90, labelsize=6)
    axes.legend()
    return _save(figure, path)


def by_method(values: Mapping[str, Sequence[float]], path: Path, label: str = "perplexity") -> Path:
    """Draw a figure by method: a bar at the mean, a point for each seed.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    figure, axes = _axes(max(6, 1.5 * len(values)), 4)
    for place, seeds in enumerate(values.values()):
        mean = sum(seeds) / len(seeds)
        axes.bar(place, mean, color="tab:blue", alpha=0.6)
        axes.plot([place] * len(seeds), seeds, "k.")
        axes.annotate(f"{mean:.3g}", (place, mean), ha="center", va="bottom")
    axes.set_xticks(
        range(len(values)), [textwrap.fill(name, _LABEL, break_long_words=False) for name in values]
    )
    axes.set_ylabel(label)
    return _save(figure, path)


def curve(points: Iterable[tuple[float, float]], path: Path, x: str, y: str) -> Path:
    """Draw a curve: quality against the number of dense layers, or a loss against tokens.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    figure, axes = _axes(7, 4)
    axes.plot(*zip(*points, strict=True), marker=".")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return _save(figure, path)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure("plots", width, height)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=120)
    except (ValueError, OSError) as error:
        raise ArgumentError(str(path), f"can't be written: {error}", "end its name in .png or .svg") from None
    return path
