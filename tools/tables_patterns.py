"""The table of products with 4:6 and 6:8 weights on a GPU, and that of tokens beside transformers'."""

from __future__ import annotations

from _table import Rows, grouped, markdown


def patterns_gpu(rows: Rows) -> str:
    """The speed over dense of each layer and pattern by M, a dense copy kept and not."""
    ms = sorted({row["M"] for row in rows})
    body = []
    for (n, k, pattern), cells in grouped(rows, lambda row: (row["N"], row["K"], row["pattern"])):
        of_m = {row["M"]: row for row in cells}
        for memory, column in (("fast", "speedup"), ("compressed", "speedup_compressed")):
            size = of_m[ms[0]]["bytes_over_dense"] + (memory == "fast")
            found = [f"{of_m[m][column]:.2f}" if m in of_m else "" for m in ms]
            body.append([f"{n}×{k}", pattern, memory, f"{size:.2f}", *found])
    headings = ["N×K", "pattern", "memory", "bytes over dense", *(f"M={m}" for m in ms)]
    return "\n" + markdown(headings, body) + "\n"


def same_tokens(rows: Rows) -> str:
    """How many prompts were answered with transformers' tokens."""
    body = [
        [
            row["model"],
            row["dtype"],
            f"{row['shortest']} … {row['longest']}",
            str(row["new_tokens"]),
            f"{row['equal']} of {row['prompts'] - row.get('unanswered', 0)}",
            ", ".join(row["loops"]),
        ]
        for row in rows
    ]
    headings = ["model", "dtype", "tokens of a prompt", "tokens decoded", "the same tokens", "loop"]
    return "\n" + markdown(headings, body) + "\n"
