"""The table of what patterns cost a chat model, one-shot and recovered."""

from __future__ import annotations

from typing import Any

from _table import Rows, markdown


def quality_patterns(rows: Rows) -> str:
    """Perplexity over dense, the geometric mean of the texts, and what the model still answers."""
    texts = list(dict.fromkeys(row["text"] for row in rows if row["text"] != "mean"))
    body = []
    for row in rows:
        if row["text"] != "mean":
            continue
        case = [(one["text"], one["ratio"]) for one in rows if _case(one) == _case(row)]
        ratios = dict(case)
        body.append(
            [
                row["pattern"],
                row["method"],
                f"{row['recovered_s']:.0f} s" if row["recovered_s"] else "one-shot",
                f"{row['ratio']:.3f}",
                *(f"{ratios[text]:.3f}" for text in texts),
                _share(row, "kept"),
                _mean(row, "repetition"),
                _mean(row, "dense_repetition"),
            ]
        )
    headings = [
        "pattern",
        "method",
        "recovered",
        "perplexity over dense",
        *texts,
        "answers kept",
        "repetition",
        "of dense",
    ]
    return "\n" + markdown(headings, body) + "\n"


def _case(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("pattern", "method", "recovered_s", "seed"))


def _share(row: dict[str, Any], name: str) -> str:
    found = row.get("answers", {}).get(name)
    return "" if found is None else f"{found['hits']} of {found['of']}"


def _mean(row: dict[str, Any], name: str) -> str:
    found = row.get("answers", {}).get(name)
    return "" if found is None else f"{100 * found['mean']:.1f} %"
