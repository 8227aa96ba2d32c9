"""The tables of pruning: quality, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _table import Rows, grouped, markdown, spread


def _scores(rows: Rows, key: Callable[[dict[str, Any]], tuple[str, ...]]) -> list[list[str]]:
    """A line for each case that `key` tells apart: its seeds, the cosine to dense, neighbours kept."""
    return [
        [*name, str(len(group)), spread(group, "cosine", 3), spread(group, "overlap", 3)]
        for name, group in grouped(rows, key)
    ]


def quality_encoder(rows: Rows) -> str:
    """The pretrained encoder after each method, all linear layers of its blocks 2:4 or some blocks dense."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        method = row["method"] + (" + permutation" if row["permute"] else "")
        return method, row["reconstruct"] or "", str(row["dense_blocks"])

    body = _scores(rows, key)
    body.sort(key=lambda cells: (cells[2], cells[4]))
    headings = ["method", "reconstruction", "dense blocks", "seeds", "cosine", "neighbours"]
    return "\n" + markdown(headings, body) + "\n"


def quality_encoder_finetune(rows: Rows) -> str:
    """The pretrained encoder, all linear layers 2:4, after distillation of so many steps."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return str(row["steps"]), f"{row['lr']:g}" if "lr" in row else ""

    body = _scores(rows, key)
    body.sort(key=lambda cells: (int(cells[0]), cells[1]))
    return "\n" + markdown(["steps", "learning rate", "seeds", "cosine", "neighbours"], body) + "\n"


def quality_encoder_recover(rows: Rows) -> str:
    """The pretrained encoder, all linear layers 2:4, after so many seconds on made-up sentences."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        seconds = f"{row['seconds']:g} s" if row["seconds"] else "one-shot"
        return seconds, str(row.get("steps", "")), f"{row['lr']:.2g}" if "lr" in row else ""

    headings = ["recovered", "steps", "learning rate", "seeds", "cosine", "neighbours"]
    return "\n" + markdown(headings, _scores(rows, key)) + "\n"


def quality_lm(rows: Rows) -> str:
    """The language model, dense, after each method and finetuned."""
    dense = {row["seed"]: row["perplexity"] for row in rows if row["method"] == "dense"}
    for row in rows:
        row["above"] = row["perplexity"] - dense[row["seed"]]
        row["closed"] = row.get(f"perplexity_gap_closed_of_{row['method']}")

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return row["method"], row.get("finetune", "")

    groups = sorted(grouped(rows, key), key=lambda pair: -sum(r["above"] for r in pair[1]) / len(pair[1]))
    body = [
        [
            *name,
            str(len(group)),
            spread(group, "perplexity", 2),
            spread(group, "above", 2),
            spread(group, "kl", 3),
            spread(group, "top1_agreement", 3),
            "" if group[0]["closed"] is None else spread(group, "closed", 2),
        ]
        for name, group in groups
    ]
    headings = [
        "method",
        "finetuned by",
        "runs",
        "perplexity",
        "above dense",
        "KL",
        "same token",
        "gap closed",
    ]
    return "\n" + markdown(headings, body) + "\n"


def quality_lm_train(rows: Rows) -> str:
    """The loss of the language model while it is trained, by seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    curves = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    body = [
        [f"{r['tokens'] / 1e6:.1f}: {r['train_nll']:.3f} · {r['heldout_nll']:.3f}" for r in at]
        for at in zip(*curves, strict=False)
    ]
    return "\n" + markdown([f"seed {seed}, tokens (10⁶): loss" for seed in seeds], body) + "\n"


def prune_speed(rows: Rows) -> str:
    """How long pruning takes: single layers, then models of Llama-3-8B's shape."""
    layers = [
        [
            f"{row['N']}×{row['K']}",
            row["method"],
            *(f"{row[part] / 1e3:.2f} s" for part in ("gather_ms", "prune_ms", "reconstruct_ms")),
        ]
        for row in rows
        if row["part"] == "layers"
    ]
    models = [
        [
            str(row["blocks"]),
            f"{row['parameters'] / 1e9:.1f}",
            row["method"],
            f"{row['seconds'] / 60:.1f} min",
        ]
        for row in rows
        if row["part"] == "model"
    ]
    headings = ["N×K", "method", "inputs' statistics", "pruning", "least squares"]
    text = "\n" + markdown(headings, layers) if layers else ""
    if models:
        text += "\n" + markdown(["decoder blocks", "parameters (10⁹)", "method", "sf.prune"], models)
    return text + "\n"
