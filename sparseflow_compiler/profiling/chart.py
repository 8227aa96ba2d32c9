"""Draw a profile as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sparseflow.profiling.kernel_kinds import KINDS, Kind
from sparseflow.reports.charts import chart
from sparseflow.reports.colours import ON_SERIES


class Bar(Protocol):
    """The data of one bar: kernel time by kind, in microseconds and percent."""

    @property
    def title(self) -> str:
        """Its label."""
        ...

    @property
    def us_by_kind(self) -> Mapping[Kind, float]:
        """Microseconds."""
        ...

    @property
    def shares(self) -> Mapping[Kind, float]:
        """Percent."""
        ...


def draw(sides: Sequence[Bar], title: str, path: Path, *, dark: bool = False) -> None:
    """Draw stacked bars, one above the other.

    Args:
        sides: from below.
        title: over the picture.
        path: a .png, .svg or .pdf file.
        dark: whether to draw on dark ground; an .svg follows its reader's setting instead.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: the file can't be written.
    """
    with chart(path, 9, 2.8, dark=dark) as figure:
        axes = figure.subplots()
        left = [0.0] * len(sides)
        for number, kind in enumerate(KINDS):
            widths = [side.us_by_kind[kind] / 1e3 for side in sides]
            bars = axes.barh(
                [side.title for side in sides], widths, left=left, color=f"C{number}", label=kind
            )
            texts = [f"{side.shares[kind]:.0f} %" if side.shares[kind] >= 5 else "" for side in sides]
            axes.bar_label(bars, texts, label_type="center", color=ON_SERIES)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.grid(visible=False)
        axes.set_xlabel("kernel time of one call, ms")
        axes.set_title(title)
        axes.legend(ncols=len(KINDS), loc="upper center", bbox_to_anchor=(0.5, -0.25))
