"""The demo's page: what was found, in plain words, at most 100 columns wide."""

from __future__ import annotations

from dataclasses import dataclass

from answers import Answer, pace
from encoder_part import EncoderResult
from language_part import PROMPTS, LanguageResult
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 100
_ANSWER = 240
"""Characters of an answer that are shown."""


@dataclass(frozen=True)
class RunFigures:
    """What the demo itself took.

    Attributes:
        machine: processor, threads and versions.
        seconds: since it began.
        peak: bytes of memory at most.
        kept: bytes in the cache folder.
        folder: that folder.
    """

    machine: str
    seconds: float
    peak: int
    kept: int
    folder: str


def show(
    console: Console, encoder: EncoderResult | None, language: LanguageResult | None, run: RunFigures
) -> None:
    """Print the page: the headline, the language model, the encoder, and what the demo took."""
    console.print(f"[bold]{_headline(encoder, language)}[/]")
    console.print(f"[dim]{escape(run.machine)}[/]")
    if language is not None:
        _show_language(console, language)
    if encoder is not None:
        _show_encoder(console, encoder)
    console.print(
        f"\n[dim]The demo took {run.seconds:.0f} s and {run.peak / 1e9:.1f} GB of memory. What it made is "
        f"kept for the next run: {run.kept / 1e9:.1f} GB in {escape(run.folder)}[/]"
    )


def _headline(encoder: EncoderResult | None, language: LanguageResult | None) -> str:
    if language is not None:
        slow, dense, sparse = (pace(side.answers) for side in language.sides)
        left_out = f"leaving out {language.rate:.0%} of the weights for each token"
        gain = f"another {sparse / dense:.2f}×" if sparse > dense else "no faster on this machine"
        return (
            f"SmolLM2-135M writes {max(sparse, dense):.0f} tokens/s instead of {slow:.0f}: compiling makes "
            f"it {dense / slow:.1f}× as fast, {left_out} {gain}. On other text its perplexity rises by "
            f"{language.cost.rise:.0%} then."
        )
    assert encoder is not None
    single = encoder.paces[-1]
    return (
        f"all-MiniLM-L6-v2 with 2:4 weights: one sentence {single.dense / single.ours:.2f}× as fast; its "
        f"embeddings keep a cosine of {encoder.scores.cosine:.2f} to the dense ones."
    )


def _show_language(console: Console, found: LanguageResult) -> None:
    _title(console, "A language model that reads fewer weights: SmolLM2-135M-Instruct, fp32")
    console.print(
        "For each token, inputs of a layer that are nearly zero are left out, and the columns of weights "
        f"that they would meet aren't read. No weight is lost. The thresholds come from {found.written:,} "
        "tokens that the model wrote itself."
    )
    console.print(_paces(found))
    console.print(_answers(found))
    lost = found.cost
    console.print(
        f"[bold]What it costs.[/] On {lost.tokens:,} tokens of Python's language reference, a text of "
        f"another kind, its perplexity is {lost.perplexity:.1f}, dense {lost.dense:.1f}; its most likely "
        f"next token is the dense model's in {lost.same:.0%} of the places."
    )
    once = found.at_once
    console.print(
        "[bold]Why not simply prune?[/] With two of every four weights gone in one shot (2:4 by Wanda, same "
        f"calibration) the perplexity is {once.perplexity:.0f}, {once.same:.0%} of the next tokens stay, and "
        f"asked for the capital of France it {_said(found.babble)} 2:4 needs recovery, or a layer budget; a "
        "large model loses less."
    )


def _said(babble: str) -> str:
    """Return what a model wrote, which may be the end of its answer alone."""
    text = babble.strip()
    return f"writes: [italic]{escape(_short(text, 110))}[/]" if text else "ends its answer before a word."


def _paces(found: LanguageResult) -> Table:
    table = _table("", ">tokens/s", ">first token", ">weights held", ">read for a token")
    for side in found.sides:
        first = min(one.first for one in side.answers)
        table.add_row(
            side.name,
            f"{pace(side.answers):.1f}",
            f"{first * 1e3:.0f} ms",
            f"{side.held / 1e6:.0f} MB",
            f"{side.read / 1e6:.0f} MB",
        )
    return table


def _answers(found: LanguageResult) -> Table:
    table = _table("asked", "dense", "sparse")
    for column, width in zip(table.columns, (18, 38, 38), strict=True):
        column.width = width
    dense, sparse = (side.answers for side in found.sides[::2])
    for prompt, theirs, ours in zip(PROMPTS, dense, sparse, strict=True):
        same = theirs.text == ours.text
        table.add_row(prompt, _shown(theirs), "[dim]the same[/]" if same else _shown(ours))
    return table


def _show_encoder(console: Console, found: EncoderResult) -> None:
    _title(console, "An encoder with half of its weights in most layers: all-MiniLM-L6-v2, 2:4")
    scores = found.scores
    console.print(
        "SparseGPT chose the weights that stay, least squares fitted them to the dense layers' outputs; the "
        "second layer of each MLP stays dense. "
        f"On {scores.texts} other sentences the mean cosine to the dense embedding is {scores.cosine:.3f}, "
        f"the lowest {scores.cosine_min:.3f}; {scores.overlap:.0%} of the {scores.k} nearest neighbours stay."
    )
    table = _table("", ">dense", ">compiled", ">times as fast")
    for one in found.paces:
        table.add_row(
            one.what, f"{one.dense * 1e3:.1f} ms", f"{one.ours * 1e3:.1f} ms", f"{one.dense / one.ours:.2f}×"
        )
    console.print(table)
    copies = ": dense copies are kept where they make large batches faster" * (found.held > found.dense)
    console.print(
        f"{found.sparse} of {found.layers} layers run sparse here. All weights take "
        f"{found.held / 1e6:.0f} MB, dense {found.dense / 1e6:.0f} MB{copies}."
    )


def _title(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/]", align="left", style="dim")


def _table(*headings: str) -> Table:
    """Return a table; a heading with > before it is of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left")
    return table


def _shown(one: Answer) -> str:
    return escape(_short(one.text, _ANSWER))


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 2].rstrip()} …"
