"""Draw README's chart from benchmarks/results/model_h200.json: a Llama-8B shape, dense beside ours.

Usage: speed_chart.py [--check] FOLDER

Writes speed-light.svg and speed-dark.svg, or with --check says whether those in FOLDER are current.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "model_h200.json"
MODEL = "llama3-8b,"
"""How the rows of the shape that was measured beside dense begin; the whole model runs without it."""

WIDTH, LEFT, BAR, LINE, GAP = 720, 264, 300, 20, 16
"""Pixels: the picture, the labels before the bars, the longest bar, a bar with its space, between groups."""


@dataclass(frozen=True)
class Group:
    """The bars of one kind of work: what is compared, and the fields of the row that has the times."""

    label: str
    phase: str
    batch: int
    dense: str
    dense_field: str
    ours: str


GROUPS = (
    Group("Prefill, 2048 tokens", "prefill", 1, "dense bf16", "dense_ms", "2:4 bf16"),
    Group("Prefill, 2048 tokens, fp8", "prefill, fp8", 1, "dense fp8", "dense_fp8_ms", "2:4 fp8"),
    Group("Decode, 1 sequence", "decode", 1, "dense bf16", "dense_ms", "2:4 bf16"),
    Group("Decode, 16 sequences", "decode", 16, "dense bf16", "dense_ms", "2:4 bf16"),
)


@dataclass(frozen=True)
class Style:
    """The colours of one variant."""

    text: str
    quiet: str
    dense: str
    ours: str


STYLES = {
    "light": Style("#1f2328", "#59636e", "#b6bec9", "#4477aa"),
    "dark": Style("#e6edf3", "#9198a1", "#59636e", "#66a3dd"),
}


def draw(rows: list[dict[str, Any]], device: str, style: Style) -> str:
    """Return the chart as SVG."""
    height = 30 + sum(2 * LINE + GAP for _ in GROUPS) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>Time of a Llama-8B shape on an {escape(device)}, dense and 2:4</title>",
        f'<text x="0" y="15" fill="{style.quiet}">Time on an {escape(device)}, '
        "shorter is faster; each pair on its own scale</text>",
    ]
    top = 30
    for group in GROUPS:
        parts += _group(group, _row(rows, group), top, style)
        top += 2 * LINE + GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(rows: list[dict[str, Any]], group: Group) -> Mapping[str, Any]:
    return next(
        row
        for row in rows
        if row["model"].startswith(MODEL) and (row["phase"], row["batch"]) == (group.phase, group.batch)
    )


def _group(group: Group, row: Mapping[str, Any], top: int, style: Style) -> Iterator[str]:
    dense, ours = row[group.dense_field], row["ours_ms"]
    longest = max(dense, ours)
    yield f'<text x="0" y="{top + 26}" fill="{style.text}">{escape(group.label)}</text>'
    bars = (
        (group.dense, dense, style.dense, f"{dense:.2f} ms"),
        (group.ours, ours, style.ours, f"{ours:.2f} ms · {dense / ours:.2f}×"),
    )
    for place, (name, milliseconds, colour, label) in enumerate(bars):
        y, length = top + place * LINE, BAR * milliseconds / longest
        weight = ' font-weight="600"' if place else ""
        yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end" fill="{style.quiet}">{name}</text>'
        yield (
            f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{LINE - 5}" rx="2" fill="{colour}"/>'
        )
        yield f'<text x="{LEFT + length + 8:.1f}" y="{y + 14}" fill="{style.text}"{weight}>{label}</text>'


def main() -> int:
    """Write or compare; exit code 1 when a picture is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    stale = False
    for name, style in STYLES.items():
        path = options.folder / f"speed-{name}.svg"
        picture = draw(result["rows"], result["meta"]["device"].removeprefix("NVIDIA "), style)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(picture, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != picture:
            print(f"{path}: differs from {RESULTS.name}; run `make docs`", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
