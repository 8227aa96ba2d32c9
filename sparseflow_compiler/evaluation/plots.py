"""Plot reports to files, in the style of all charts. matplotlib is imported on first use."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sparseflow.reports.charts import chart

_LABEL = 16
"""Characters in a line of a bar's label."""


def by_method(
    values: Mapping[str, Sequence[float]], path: Path, label: str = "perplexity", *, dark: bool = False
) -> Path:
    """Draw a figure by method: a bar at the mean, a point for each seed.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    with chart(path, max(6, 1.4 * len(values)), 3.6, dark=dark) as figure:
        axes = figure.subplots()
        for place, seeds in enumerate(values.values()):
            mean = sum(seeds) / len(seeds)
            axes.bar(place, mean, width=0.65, color="C0")
            if len(seeds) > 1:
                axes.plot([place] * len(seeds), seeds, ".", color="C1")
            axes.annotate(
                f"{mean:.3g}",
                (place, max(mean, *seeds)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
        names = [textwrap.fill(name, _LABEL, break_long_words=False) for name in values]
        axes.set_xticks(range(len(values)), names)
        axes.set_title(label)
    return path


def curve(points: Iterable[tuple[float, float]], path: Path, x: str, y: str, *, dark: bool = False) -> Path:
    """Draw a curve: quality against the number of dense layers, or a loss against tokens.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    with chart(path, 7, 3.6, dark=dark) as figure:
        axes = figure.subplots()
        axes.plot(*zip(*points, strict=True), marker=".")
        axes.set_xlabel(x)
        axes.set_title(y)
    return path
