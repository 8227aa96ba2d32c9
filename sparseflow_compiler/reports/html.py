"""Render a page as one self-contained HTML file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.reports.colours import DARK, LIGHT
from sparseflow.reports.curve_drawing import HEIGHT, WIDTH, drawn
from sparseflow.reports.page import Page, Pie

if TYPE_CHECKING:
    from jinja2 import Environment

_RADIUS, _HOLE = 80.0, 46.0


def html(page: Page) -> str:
    """Return the page as HTML in UTF-8, light or dark by the reader's system setting."""
    return environment().get_template("page.html.jinja").render(page=page, light=LIGHT, dark=DARK)


def environment() -> Environment:
    """Return what renders the templates of this folder, escaping every value."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kind": lambda piece: type(piece).__name__, "arcs": _arcs, "drawn": drawn}
    environment.globals |= {"curve_width": WIDTH, "curve_height": HEIGHT}
    return environment


@dataclass(frozen=True)
class _Arc:
    """A slice of a ring as an SVG path."""

    label: str
    percent: float
    path: str


def _arcs(pie: Pie) -> list[_Arc]:
    whole, start, arcs = sum(percent for _, percent in pie.slices), 0.0, []
    for label, percent in pie.slices:
        # The arc of a single slice would start where it ends and draw nothing.
        share = min(percent / whole, 0.99999) if whole else 0.0
        arcs.append(_Arc(label, percent, _ring(start, start + share) if share else ""))
        start += share
    return arcs


def _ring(start: float, end: float) -> str:
    (x0, y0), (x1, y1) = (_point(share, _RADIUS) for share in (start, end))
    (x2, y2), (x3, y3) = (_point(share, _HOLE) for share in (end, start))
    large = int(end - start > 0.5)
    return (
        f"M{x0:.2f} {y0:.2f}A{_RADIUS} {_RADIUS} 0 {large} 1 {x1:.2f} {y1:.2f}"
        f"L{x2:.2f} {y2:.2f}A{_HOLE} {_HOLE} 0 {large} 0 {x3:.2f} {y3:.2f}Z"
    )


def _point(share: float, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * share - math.pi / 2
    return radius * math.cos(angle), radius * math.sin(angle)
