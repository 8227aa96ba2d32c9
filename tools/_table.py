"""What the tables have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grouped(
    rows: Rows, key: Callable[[dict[str, Any]], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], Rows]]:
    """Rows of one key together, in the order of their first."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def spread(rows: Rows, field: str, digits: int) -> str:
    """The mean, and the least and the greatest value where there are several."""
    values = [row[field] for row in rows]
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def times(value: float | None) -> str:
    """A speed-up; nothing where there is none."""
    return "" if value is None else f"{value:.2f}×"
