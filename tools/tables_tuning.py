"""Tables about the cost model and quick tuning."""

from __future__ import annotations

from _table import Rows, markdown, times


def cost_model(rows: Rows) -> str:
    """First choices by dtype, then quick tuning by memory mode."""
    choices = [row for row in rows if row["what"] == "first choice" and row["M"] is None]
    body = [
        [
            row["dtype"] or "all",
            str(row["points"]),
            str(row["sparse"]),
            str(row["not_kept"]),
            f"{row['over_best']:.3f}×",
            times(row["worst_over_dense"]),
            str(row["below"]),
        ]
        for row in choices
    ]
    headings = [
        "first choice",
        "points",
        "sparse",
        "not kept",
        "time over the best",
        "worst over dense",
        "below 0.95×",
    ]
    quick = [
        [row["what"], row["memory"], ", ".join(map(str, row["rows"])), f"{row['over_full']:.3f}×"]
        for row in rows
        if "over_full" in row
    ]
    beside = ["what is tuned", "memory", "M", "time over full tuning, mean over all M"]
    return f"\n{markdown(headings, body)}\n{markdown(beside, quick)}\n"
