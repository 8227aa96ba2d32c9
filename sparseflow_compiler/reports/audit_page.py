"""The page of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparseflow.reports.page import Bars, Column, Facts, Page, Piece, Table, figure, one_line
from sparseflow.support.documents import Document

_CHARACTERS = 600
"""Of an answer that is shown."""
_LENGTHS = ((0, 0), (1, 3), (4, 7), (8, 15), (16, 31), (32, None))
"""Tokens before the first difference, in a plot."""


def audit_page(title: str, found: Document) -> Page:
    """Make the page of an audit, given as `AuditReport.to_dict` returns it."""
    pieces = [
        _facts(found),
        *_patterns(found["patterns"]),
        *_texts(found["texts"]),
        *_answers(found["answers"]),
        _minutes(found["minutes"]),
    ]
    return Page(title, (one_line(found["about"]),), tuple(pieces))


def _facts(found: Document) -> Facts:
    """Return the figures that say most."""
    summary, texts = found["answers"]["summary"], found["texts"]["texts"]
    failures = len(found["patterns"]["failures"])
    items = [("weights as claimed", "✗" if failures else "✓", f"{failures} failures")]
    if texts and texts[0]["ratio"] is not None:
        mean = sum(text["ratio"] for text in texts) / len(texts)
        items.append(("perplexity over dense", f"{mean:.3f}", f"mean of {len(texts)} texts"))
    for name, label in (
        ("kept", "right answers kept"),
        ("exact", "same answers"),
        ("right", "right answers"),
    ):
        if name in summary and summary[name]["of"]:
            items.append((label, f"{100 * summary[name]['share']:.0f} %", _of(summary[name])))
    return Facts("In short", tuple(items))


def _of(share: Mapping[str, Any]) -> str:
    return f"{share['hits']} of {share['of']}, 95 %: {_interval(share['interval'], 100, ' %')}"


def _interval(limits: Sequence[float], scale: float = 1.0, unit: str = "") -> str:
    low, high = (figure(round(scale * limit, 4)) for limit in limits)
    return f"{low} to {high}{unit}"


def _patterns(found: Document) -> list[Piece]:
    whole = sum(found["weights_by_pattern"].values()) + found["other_weights"]
    sizes = [*found["weights_by_pattern"].items(), ("outside of linear layers", found["other_weights"])]
    bars = tuple(
        (name, size, f"{100 * size / whole:.1f} %, {size / 1e6:.2f} M") for name, size in sizes if size
    )
    pieces: list[Piece] = [
        Bars(
            "Weights by pattern", bars, "The pattern that each weight was found to have, whatever is claimed."
        )
    ]
    if found["failures"]:
        wrong = tuple((failure,) for failure in found["failures"])
        pieces.append(Table("What is wrong with the weights", (Column(""),), wrong))
    columns = (
        Column("layer"),
        Column("N×K", True),
        Column("found"),
        Column("claimed"),
        Column("zeros", True),
    )
    rows = tuple(
        (
            one["name"],
            f"{one['N']}×{one['K']}",
            one["pattern"],
            one["claimed"] or "",
            f"{100 * one['zeros']:.1f} %",
        )
        for one in found["layers"]
    )
    return [*pieces, Table("Layers", columns, rows)]


def _texts(found: Document) -> list[Piece]:
    compared = any(text["ratio"] is not None for text in found["texts"])
    bars = []
    for text in found["texts"]:
        value, limits = text["perplexity"], text["interval"]
        if compared:
            value, limits = text["ratio"], text["ratio_interval"]
        bars.append((text["text"], value, f"{value:.3f}, {_interval(limits)}"))
    what = "Perplexity over dense" if compared else "Perplexity"
    names = ("text", "tokens", "perplexity", "dense", "ratio", "kl", "agreement")
    columns = tuple(Column(name, name != "text") for name in names)
    rows = tuple(tuple(figure(text[name]) for name in names) for text in found["texts"])
    note = "Intervals hold the true value with 95 %, by resampling windows. kl: nats a token."
    pieces: list[Piece] = [Bars(what, tuple(bars), note), Table("Texts", columns, rows)]
    if found["positions"]:
        agreement = tuple(
            (
                f"{one['first']}–{one['last']}" if one["last"] > one["first"] else str(one["first"]),
                one["agreement"],
                f"{100 * one['agreement']:.1f} %, {_interval(one['interval'], 100, ' %')}",
            )
            for one in found["positions"]
        )
        note = "Tokens for which both models hold the same one likeliest, by how many tokens came before."
        pieces.append(Bars("Agreement of the next token, by position", agreement, note))
    return pieces


def _answers(found: Document) -> list[Piece]:
    prompts, questions, summary = found["prompts"], found["questions"], found["summary"]
    pieces: list[Piece] = []
    if "same_tokens" in summary:
        pieces.append(_lengths(prompts, summary["same_tokens"]))
    repeats = [
        (
            label,
            summary[name]["mean"],
            f"{100 * summary[name]['mean']:.1f} %, {_interval(summary[name]['interval'], 100, ' %')}",
        )
        for name, label in (("dense_repetition", "dense"), ("repetition", "this model"))
        if name in summary
    ]
    pieces.append(
        Bars("Repetition", tuple(repeats), "Share of an answer's 4-grams of tokens that were in it before.")
    )
    pieces.append(_questions(questions, summary))
    pieces.append(_side_by_side(prompts))
    return pieces


def _lengths(prompts: Sequence[Document], same: Mapping[str, Any]) -> Bars:
    counts = []
    for first, last in _LENGTHS:
        label = f"{first} or more" if last is None else f"{first}–{last}" if last > first else str(first)
        hits = sum(first <= one["same"] and (last is None or one["same"] <= last) for one in prompts)
        counts.append((label, hits, f"{hits} answers"))
    middle = f"Mean {same['mean']:.1f} ({_interval(same['interval'])}), median {figure(same['median'])}"
    note = f"{middle}; greedy decoding."
    return Bars("Tokens before the first difference", tuple(counts), note)


def _questions(questions: Sequence[Document], summary: Document) -> Table:
    columns = (
        Column("question"),
        Column("accepted"),
        Column("this model"),
        Column("right"),
        Column("dense"),
        Column("right"),
    )
    rows = tuple(
        (
            one["question"],
            " or ".join(one["accepted"]),
            one["answer"],
            figure(one["right"]),
            one["dense"] or "",
            figure(one["dense_right"]),
        )
        for one in questions
    )
    note = f"Right: {_of(summary['right'])}."
    if "kept" in summary:
        note += f" Of those that dense answers rightly: {_of(summary['kept'])}."
    return Table("Questions whose answer is one word", columns, rows, note)


def _side_by_side(prompts: Sequence[Document]) -> Table:
    columns = (
        Column("prompt"),
        Column("tokens the same", True),
        Column("answers", long=True),
        Column("", long=True),
    )
    rows = tuple(
        (
            one["prompt"],
            "all" if one["exact"] else figure(one["same"]),
            "" if one["dense"] is None else f"Dense: {one['dense'][:_CHARACTERS]}",
            f"This model: {one['answer'][:_CHARACTERS]}",
        )
        for one in prompts
    )
    return Table("Answers side by side", columns, rows)


def _minutes(minutes: Mapping[str, float]) -> Table:
    rows = tuple((name, f"{value:.2f}") for name, value in minutes.items())
    return Table("Minutes", (Column("part"), Column("minutes", True)), rows)
