"""`sparseflow eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.audit_folder import audit_folder
from sparseflow.cli.saved_models import load_model, read_lines, text_batches
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import is_causal, read_tokenizer

if TYPE_CHECKING:
    from torch import nn

    from sparseflow.evaluation import EvaluationReport


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="Folders of transformers models, or of compiled ones.")
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text, or token ids in .npy, .pt or .safetensors; an encoder reads lines. "
            "An audit takes several, and without any reads three that come with Python."
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Check one model's weights; measure perplexity, agreement and answers.",
        ),
    ] = False,
    dense: Annotated[
        Path | None, typer.Option(help="Folder of the dense model to compare with; encoders need it.")
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens in a window.")] = 1024,
    stride: Annotated[int | None, typer.Option(help="From window to window; half a window.")] = None,
    batch: Annotated[int, typer.Option(help="Windows at a time.")] = 8,
    most: Annotated[int | None, typer.Option(help="Tokens or lines to read, at most.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as saved.")] = None,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Draw perplexity, or overlap, by model here.")] = None,
    dark: option_values.Dark = False,
    windows: Annotated[int, typer.Option(help="Audit: windows of each text, at most.")] = 16,
    prompts: Annotated[int, typer.Option(help="Audit: of 200 prompts and 100 questions, at most.")] = 200,
    new_tokens: Annotated[int, typer.Option(help="Audit: of an answer, at most.")] = 64,
    seed: Annotated[int, typer.Option(help="Audit: of the resampling that intervals are made by.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Audit: write the page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure perplexity, agreement with a dense model, or how an encoder's embeddings moved.

    Which tokens are scored: window i begins at token i × stride; scored are the tokens that no window before
    held and that have one before them in their window. An audit scores `--windows` windows, spread over each
    text, and exits with 1 if a weight isn't what the model's report claims.
    """
    option_values.require_folder(plot)
    option_values.require_folder(html)
    if audit:
        how = {"windows": windows, "prompts": prompts, "new_tokens": new_tokens, "batch": batch, "seed": seed}
        audit_folder(models, dense, text or [], how | {"window": window}, dtype, device, html, as_json)
        return
    if text is None or len(text) != 1 or html is not None:
        rule = "needs one --text, and writes no --html" if html is None else "writes no --html"
        raise ArgumentError("sparseflow eval", rule, "give one, or ask for an --audit")
    import sparseflow as sf

    report = sf.evaluation.EvaluationReport({"text": str(text[0])})
    reference = None if dense is None else load_model(dense, dtype, device, compiled=True)
    for folder in [*([] if dense is None else [dense]), *models]:
        model = load_model(folder, dtype, device, compiled=True)
        if is_causal(model):
            cut: Windows = {"window": window, "stride": stride, "batch": batch}
            _language(report, folder, model, reference if folder != dense else None, text[0], most, cut)
        else:
            _encoder(report, folder, model, reference, text[0], most)
    if plot is not None:
        _plot(report, plot, dark)
    answer(report.to_dict(), report.table, as_json=as_json)


class Windows(TypedDict):
    """How the tokens of a text are cut for `perplexity` and `agreement`."""

    window: int
    stride: int | None
    batch: int


def _language(
    report: EvaluationReport,
    folder: Path,
    model: nn.Module,
    dense: nn.Module | None,
    text: Path,
    most: int | None,
    how: Windows,
) -> None:
    from sparseflow.evaluation import agreement, perplexity, read_tokens

    tokens, size = read_tokens(text, read_tokenizer(folder))
    found = perplexity(model, tokens[:most], **how)
    figures: dict[str, object] = {
        "perplexity": found.perplexity,
        "nll": found.nll,
        "scored tokens": found.tokens,
    }
    if size and (most is None or most >= len(tokens)):
        figures["bits per byte"] = found.bits_per_byte(len(tokens), size)
    if dense is not None:
        if not is_causal(dense):
            raise ArgumentError(
                "--dense", "is no causal language model, and the others are", "name their dense one"
            )
        close = agreement(model, dense, tokens[:most], **how)
        figures |= {"top-1 agreement": close.top1, "KL": close.kl, "KL p99": close.kl_p99}
    report.about |= {"window": found.window, "stride": found.stride}
    report.add(folder.name, **figures)


def _encoder(
    report: EvaluationReport,
    folder: Path,
    model: nn.Module,
    dense: nn.Module | None,
    text: Path,
    most: int | None,
) -> None:
    if dense is None:
        raise ArgumentError(
            f"model {folder}", "is an encoder: its embeddings are compared with a dense one's", "give --dense"
        )
    from sparseflow.evaluation import compare_embeddings, embed

    batches = text_batches(read_lines(text, most), read_tokenizer(folder))
    scores = compare_embeddings(embed(model, batches), embed(dense, batches)).to_dict()
    k = scores.pop("k")
    report.add(folder.name, **{f"top-{k} overlap": scores.pop("overlap")}, **scores)


def _plot(report: EvaluationReport, path: Path, dark: bool) -> None:
    from sparseflow.evaluation.plots import by_method

    figure = next(name for name in report.rows[0] if name == "perplexity" or "overlap" in name)
    by_method({str(row["name"]): [row[figure]] for row in report.rows}, path, figure, dark=dark)
