"""The one style of all charts that matplotlib draws, which is imported on first use."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.errors import ArgumentError
from sparseflow.reports.colours import DARK, LIGHT, Palette
from sparseflow.support.extras import require_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 140
_INLINE = re.compile(r"\b(fill|stroke|stop-color): (#[0-9a-f]{6})\b")


@contextmanager
def chart(path: Path, width: float, height: float, *, dark: bool = False) -> Iterator[Figure]:
    """Yield an empty figure in SparseFlow's style; it is written at the end of the block.

    An .svg is light or dark as its reader's system is; other formats are as `dark` says.

    Args:
        path: of the file to write; its suffix says the format.
        width: inches.
        height: inches.
        dark: whether to draw on dark ground.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it doesn't know the format, or can't write the file.
    """
    adapts = path.suffix == ".svg"
    with styled(str(path), dark=dark and not adapts):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            if adapts:
                path.write_text(_adaptive(_svg(figure)), encoding="utf-8")
            else:
                figure.savefig(path, dpi=_DPI)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(
                f"chart {path}",
                f"can't be written: {reason}",
                "name a .png, .svg or .pdf file in a folder that exists",
            ) from None


@contextmanager
def styled(subject: str, *, dark: bool = False) -> Iterator[None]:
    """Make matplotlib draw in SparseFlow's style within a `with` block.

    Args:
        subject: what is drawn, for the error.
        dark: whether to draw on dark ground.

    Raises:
        MissingDependencyError: matplotlib is missing.
    """
    require_plots(subject)
    import matplotlib

    with matplotlib.rc_context(_style(DARK if dark else LIGHT)):
        yield


def _style(palette: Palette) -> dict[Any, Any]:
    from cycler import cycler

    sides = {f"axes.spines.{side}": side == "bottom" for side in ("top", "right", "left", "bottom")}
    ground = dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), palette.page)
    quiet = dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), palette.quiet)
    lines = dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), palette.line)
    return {
        **sides,
        **ground,
        **quiet,
        **lines,
        "text.color": palette.ink,
        "axes.titlecolor": palette.ink,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=palette.series),
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "figure.titlesize": 11,
        "figure.titleweight": "bold",
        "font.size": 8.5,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "svg.hashsalt": "sparseflow",
    }


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _adaptive(svg: str) -> str:
    """Return a picture in light colours so that it follows the reader's setting.

    Each colour of the palette becomes a variable; programs that know none keep the light colour before it.
    """
    names = {colour: name for name, colour in LIGHT.variables().items()}
    adaptive = _INLINE.sub(
        lambda found: f"{found[0]}; {found[1]}: var(--{names[found[2]]})" if found[2] in names else found[0],
        svg,
    )
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {_declared(DARK)} }} }}"
    style = f":root {{ {_declared(LIGHT)} }}\n{dark}"
    return adaptive.replace("<defs>", f"<style>\n{style}\n</style>\n<defs>", 1)


def _declared(palette: Palette) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in palette.variables().items())
