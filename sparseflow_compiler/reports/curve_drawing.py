"""Where the parts of a curve lie in an SVG picture: its points, its line and the ticks of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparseflow.reports.page import Curve

WIDTH, HEIGHT = 680, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 44
_TICKS = 6


@dataclass(frozen=True)
class Mark:
    """A point of the picture with its text."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A curve in pixels.

    Attributes:
        points: of the curve.
        marked: points beside it.
        x_ticks: on the lower edge, with their labels.
        y_ticks: on the left edge, likewise.
    """

    points: tuple[Mark, ...]
    marked: tuple[Mark, ...]
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]

    @property
    def line(self) -> str:
        """The points as SVG's polyline takes them."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.points)


def drawn(curve: Curve) -> Drawing:
    """Return where the parts of a curve lie; both axes contain 0."""
    every = [*curve.points, *curve.marked]
    xs, ys = _ticks([x for x, _, _ in every]), _ticks([y for _, y, _ in every])

    def place(x: float, y: float, text: str) -> Mark:
        right, up = _share(x, xs), _share(y, ys)
        return Mark(
            _LEFT + right * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), text
        )

    return Drawing(
        tuple(place(*point) for point in curve.points),
        tuple(place(*point) for point in curve.marked),
        tuple(place(x, ys[0], f"{x:g}") for x in xs),
        tuple(place(xs[0], y, f"{y:g}") for y in ys),
    )


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers, evenly spaced, that enclose 0 and all values."""
    low, high = min(0.0, *values), max(0.0, *values)
    rough = (high - low) / (_TICKS - 1) or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), max(math.ceil(high / step - 1e-9), math.floor(low / step) + 1)
    return [round(place * step, 12) for place in range(first, last + 1)]
