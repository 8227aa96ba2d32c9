"""Draw a profile as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sparseflow.errors import ArgumentError
from sparseflow.profiling.kernel_kinds import KINDS, Kind
from sparseflow.reports.colours import COLOURS
from sparseflow.support.extras import new_figure


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


def draw(sides: Sequence[Bar], title: str, path: Path) -> None:
    """Draw stacked bars, one above the other.

    Args:
        sides: from below.
        title: over the picture.
        path: a .png, .svg or .pdf file.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: the file can't be written.
    """
    figure = new_figure(f"chart {path}", 9, 2.8)
    axes = figure.subplots()
    left = [0.0] * len(sides)
    for kind, colour in zip(KINDS, COLOURS, strict=True):
        widths = [side.us_by_kind[kind] / 1e3 for side in sides]
        bars = axes.barh([side.title for side in sides], widths, left=left, color=colour, label=kind)
        texts = [f"{side.shares[kind]:.0f} %" if side.shares[kind] >= 5 else "" for side in sides]
        axes.bar_label(bars, texts, label_type="center")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("kernel time of one call, ms")
    axes.set_title(title, fontsize=9)
    axes.legend(ncols=len(KINDS), loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            f"chart {path}",
            f"can't be written: {reason}",
            "name a .png, .svg or .pdf file in a folder that exists",
        ) from None
