"""The tables of what patterns, thresholds and fp8 cost a chat model."""

from __future__ import annotations

import math
from typing import Any

from _table import Rows, grouped, markdown


def quality_patterns(rows: Rows) -> str:
    """Perplexity over dense, the geometric mean of the texts, and what the model still answers."""
    texts = list(dict.fromkeys(row["text"] for row in rows if row["text"] != "mean"))
    body = []
    means = [row for row in rows if row["text"] == "mean"]
    for row in sorted(means, key=lambda row: (row["pattern"], row["method"], row["recovered_s"])):
        case = [(one["text"], one["ratio"]) for one in rows if _case(one) == _case(row)]
        ratios = dict(case)
        body.append(
            [
                row["pattern"],
                row["method"],
                f"{row['recovered_s']:.0f} s" if row["recovered_s"] else "one-shot",
                f"{row['tokens_trained'] / 1e6:.1f}M" if row["recovered_s"] else "",
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
        "tokens trained",
        "perplexity over dense",
        *texts,
        "answers kept",
        "repetition",
        "of dense",
    ]
    return "\n" + markdown(headings, body) + "\n"


def quality_methods(rows: Rows) -> str:
    """Perplexity over dense of one-shot pruning, the geometric mean of the texts: of the seeds, the mean."""
    means = [row for row in rows if row["text"] == "mean"]
    patterns = list(dict.fromkeys(row["pattern"] for row in means))
    body = []
    for (method, reconstruct), cells in grouped(means, lambda row: (row["method"], row["reconstruct"])):
        line = [method, reconstruct]
        for pattern in patterns:
            found = [row["ratio"] for row in cells if row["pattern"] == pattern]
            line.append(_of_seeds(found))
        body.append(line)
    return "\n" + markdown(["method", "reconstruct", *patterns], body) + "\n"


def _of_seeds(found: list[float]) -> str:
    """Return the mean of some seeds and how far they are apart; empty if there are none."""
    if not found:
        return ""
    mean = math.exp(sum(map(math.log, found)) / len(found))
    return f"{mean:.3f} ({min(found):.3f}–{max(found):.3f})" if max(found) > min(found) else f"{mean:.3f}"


def quality_activations(rows: Rows) -> str:
    """Perplexity over dense by thresholds, and the tokens of answers that stay."""
    texts = list(dict.fromkeys(row["text"] for row in rows if row["text"] != "mean"))
    body = []
    for (method, rate), cells in grouped(rows, lambda row: (row["method"], row["rate"])):
        by = {row["text"]: row for row in cells}
        same = by["mean"].get("answers", {}).get("same")
        body.append(
            [
                f"{rate:.0%}",
                method,
                f"{by['mean']['saved']:.1%}",
                f"{by['mean']['ratio']:.3f}",
                *(f"{by[text]['ratio']:.3f}" for text in texts),
                "" if same is None else f"{same:.1%}",
            ]
        )
    headings = ["rate", "thresholds", "weights not read", "perplexity over dense", *texts, "same tokens"]
    return "\n" + markdown(headings, sorted(body, key=lambda line: float(line[0][:-1]))) + "\n"


def quality_fp8(rows: Rows) -> str:
    """Perplexity over dense in 16 bits, by pattern and product."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    cases = {
        case: {row["text"]: row["perplexity"] for row in cells}
        for case, cells in grouped(rows, lambda row: (row["pattern"], row["product"]))
    }
    dense = cases["dense", "bf16"]
    body = []
    for (pattern, product), found in cases.items():
        ratios = [found[text] / dense[text] for text in texts]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        body.append([pattern, product, f"{mean:.3f}", *(f"{ratio:.3f}" for ratio in ratios)])
    return "\n" + markdown(["pattern", "product", "perplexity over dense", *texts], body) + "\n"


def _case(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("pattern", "method", "recovered_s", "seed"))


def _share(row: dict[str, Any], name: str) -> str:
    found = row.get("answers", {}).get(name)
    return "" if found is None else f"{found['hits']} of {found['of']}"


def _mean(row: dict[str, Any], name: str) -> str:
    found = row.get("answers", {}).get(name)
    return "" if found is None else f"{100 * found['mean']:.1f} %"
