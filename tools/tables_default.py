"""The table of what `sf.compile(model)` gives without any option."""

from __future__ import annotations

import math
from typing import Any

from _table import Rows, markdown, times

NAMES = (
    *("default_h200", "default_h100", "default_gpu"),
    *("default_cpu", "default_cpu_xeon", "default_cpu_xeon_2_cores"),
)
"""Files of bench_default.py, a device each: which of them are there depends on where it ran."""


def default(rows: Rows) -> str:
    """Whole models, then all layers in a sentence, then quick tuning beside full tuning."""
    models = [row for row in rows if "model" in row]
    layers = [row for row in rows if "ours_us" in row]
    quick = [row for row in rows if "quick_over_full" in row]
    parts = [_models(models), _layers(layers), *(_quick(row) for row in quick)]
    return "\n" + "\n".join(part for part in parts if part) + "\n"


def _models(rows: Rows) -> str:
    body = [
        [
            row["model"] if "depth" not in row else f"{row['model']}, depth {row['depth']}",
            row["phase"],
            str(row["batch"]),
            str(row["seq"] or ""),
            *(f"{row[side]:.3f} ms" for side in ("dense_ms", "ours_ms")),
            times(row["speedup"]),
            f"≥ {row['target']}×" if row["target"] else "",
            f"{row['layers_sparse']} of {row['layers']}",
            "" if row["first_output_extra_s"] is None else f"{row['first_output_extra_s']:.1f} s",
        ]
        for row in rows
    ]
    headings = [
        "model", "phase", "batch", "tokens", "dense", "ours", "speed-up", "asked", "sparse layers",
        "first output later by",
    ]  # fmt: skip
    return markdown(headings, body) if rows else ""


def _layers(rows: Rows) -> str:
    if not rows:
        return ""
    speedups = [row["speedup"] for row in rows]
    shapes, ms = {(row["N"], row["K"]) for row in rows}, [row["M"] for row in rows]
    worst = min(rows, key=lambda row: float(row["speedup"]))
    mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
    return (
        f"{len(shapes)} layers of these models, {len(rows)} points of M = {min(ms)} … {max(ms)}, device time "
        f"over dense: {times(mean)} in the geometric mean, at worst {times(worst['speedup'])} "
        f"({worst['N']}×{worst['K']}, M={worst['M']}); "
        f"{sum(row['met'] for row in rows)} points reach {worst['target']}×.\n"
    )


def _quick(row: dict[str, Any]) -> str:
    return (
        f"What quick tuning chooses takes {row['quick_over_full']:.3f} times as long as what full tuning "
        f"does, in the geometric mean of {row['points']} points; it tunes in {row['quick_tuning_s']} s, "
        f"not {row['full_tuning_s']} s.\n"
    )
