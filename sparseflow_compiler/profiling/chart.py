"""A profile as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError
from sparseflow.profiling.kinds import KINDS

if TYPE_CHECKING:
    from sparseflow.profiling.result import Profile

COLOURS = (
    "#4477aa",
    "#ee6677",
    "#ccbb44",
    "#bbbbbb",
)  # Tol's bright scheme: told apart by colour-blind eyes


def draw(profile: Profile, path: Path) -> None:
    """Draw two stacked bars, dense and compiled, by kind; see `Profile.chart`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ArgumentError(
            f"chart {path}", "needs matplotlib", "pip install matplotlib, or leave the chart out"
        ) from None
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    sides = (profile.compiled, profile.dense)
    left = [0.0, 0.0]
    for kind, colour in zip(KINDS, COLOURS, strict=True):
        widths = [side.us_by_kind[kind] / 1e3 for side in sides]
        bars = axes.barh([side.title for side in sides], widths, left=left, color=colour, label=kind)
        texts = [f"{side.shares[kind]:.0f} %" if side.shares[kind] >= 5 else "" for side in sides]
        axes.bar_label(bars, texts, label_type="center")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("kernel time of one call, ms")
    figures = (
        f"GEMM {profile.gemm_speedup:.2f}×, ceiling {profile.ceiling:.2f}×, reached {profile.reached:.2f}×"
    )
    axes.set_title(f"{profile.title}\n{figures}", fontsize=9)
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
