"""The tables of contextual sparsity."""

from __future__ import annotations

from _table import Rows, markdown


def contextual_cpu(rows: Rows) -> str:
    """Contextual MLPs of one token against dense ones, predicting and selecting included."""
    body = [
        [
            row["dtype"],
            f"{row['active']:.1%}",
            f"{row['dense_gb_per_s']:.1f} GB/s",
            f"{row['speedup']:.2f}×" + _asked(row.get("target"), bool(row.get("met", True))),
            f"{row['kernel_of_ideal']:.2f}",
            f"{row['kernel_of_read']:.2f}",
            f"{row['faster_than_fp32']:.2f}×" if "faster_than_fp32" in row else "",
        ]
        for row in rows
    ]
    headings = [
        "weights",
        "active",
        "dense reads",
        "over dense",
        "kernel of ideal",
        "kernel of reading",
        "over fp32",
    ]
    return "\n" + markdown(headings, body) + "\n"


def contextual_model(rows: Rows) -> str:
    """A whole model: the first token and those after it, dense beside contextual."""
    body = [
        [
            str(row["prompt"]),
            row["side"],
            f"{row['ttft_ms_p50']:.0f} ms",
            f"{row['tokens_per_second']:.2f}",
            f"{row['ttft_speedup']:.2f}×",
            f"{row['speedup']:.2f}×" + _asked(row.get("target"), bool(row.get("met", True))),
            f"{row['weights_mb'] / 1e3:.2f} GB",
        ]
        for row in rows
    ]
    headings = [
        "prompt",
        "side",
        "first token",
        "tokens/s",
        "first token over dense",
        "tokens/s over dense",
        "weights",
    ]
    return "\n" + markdown(headings, body) + "\n"


def contextual_h200(rows: Rows) -> str:
    """The same on a GPU, in a CUDA graph."""
    kernel = [
        [
            f"{row['hidden']}×{row['intermediate']}",
            row["dtype"],
            str(row["M"]),
            f"{row['active']:.0%}",
            f"{row['kernel_speedup']:.2f}×",
            f"{row['speedup']:.2f}×" + _asked(row["target"], row["met"]),
        ]
        for row in rows
    ]
    headings = [
        "hidden×intermediate",
        "dtype",
        "M",
        "active",
        "kernel over dense",
        "with predicting and selecting",
    ]
    return "\n" + markdown(headings, kernel) + "\n"


def _asked(target: float | None, met: bool) -> str:
    return "" if target is None or met else f" (asked {target:g})"
