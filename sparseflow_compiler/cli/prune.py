"""`sparseflow prune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.saved_models import load_model, read_lines, require_new, save_model, text_batches
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import is_causal, read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase

REPORT = "sparseflow_prune.json"


def prune(
    model: Annotated[Path, typer.Argument(help="Folder of a transformers model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: safetensors, tokenizer and the report.")],
    method: Annotated[str, typer.Option(help="magnitude, wanda, sparsegpt, …: as sf.prune.")] = "magnitude",
    pattern: Annotated[str, typer.Option(help="2:4, or what costs less quality: 4:6, 6:8.")] = "2:4",
    calibration: Annotated[
        Path | None, typer.Option(help="Text, or token ids in .npy, .pt or .safetensors.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Sequences of a decoder, or lines for an encoder.")] = 128,
    length: Annotated[int, typer.Option(help="Tokens in a sequence of a decoder.")] = 2048,
    skip: Annotated[
        list[str] | None, typer.Option(help="Pattern of layers that stay dense; may be repeated.")
    ] = None,
    skip_defaults: Annotated[
        bool, typer.Option(help="Keep heads, embeddings and adapters dense, besides what --skip names.")
    ] = True,
    max_loss: Annotated[
        float | None, typer.Option(help="Choose each layer's pattern so that pruning costs at most so much.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="Or so that weights take so many bytes: a number, or a pattern: 4:6.")
    ] = None,
    patterns: Annotated[
        str | None, typer.Option(help="What is chosen from, as 2:4,4:6,6:8,dense; else --pattern or dense.")
    ] = None,
    recovery: Annotated[
        float, typer.Option(help="By what later recovery is expected to divide the loss, for --max-loss.")
    ] = 1.0,
    ms: Annotated[
        str, typer.Option(help="Numbers of rows at which the saved time counts, for --max-loss.")
    ] = "1,512",
    frontier: Annotated[
        Path | None, typer.Option(help="Write the frontier of loss and saving into this .html or .png.")
    ] = None,
    reconstruct: Annotated[
        str | None, typer.Option(help="Win back what is lost: layer, attention, mlp or block.")
    ] = None,
    permute: Annotated[
        bool, typer.Option("--permute", help="Permute channels so that less is lost; inference pays nothing.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder for blocks that are done: the same command goes on from there."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the places in the text, and of training.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as saved.")] = None,
    device: Annotated[str, typer.Option(help="Where to prune.")] = "cpu",
    save_packed: Annotated[
        bool, typer.Option("--save-packed", help="Save pruned layers packed; sparseflow and vLLM load them.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the error by layer into this file.")] = None,
    dark: option_values.Dark = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prune a transformers model to 2:4, 4:6 or 6:8 and save it."""
    require_new(out)
    option_values.require_folder(plot)
    budgeted = max_loss is not None or max_bytes is not None
    _require_frontier(frontier, budgeted=budgeted)
    if samples < 1 or length < 2:
        raise ArgumentError(f"--samples {samples} --length {length}", "must be at least 1 and 2")
    loaded, tokenizer = load_model(model, dtype, device), read_tokenizer(model)
    batches = None
    if calibration is not None:
        batches = _batches(loaded, tokenizer, calibration, samples, length, seed)
    import sparseflow as sf

    how: dict[str, object] = {"max_loss": max_loss, "seed": seed, "pattern": pattern}
    how |= {"max_bytes": int(max_bytes) if max_bytes and max_bytes.isdecimal() else max_bytes}
    how |= {"patterns": None if patterns is None else tuple(patterns.split(",")), "recovery": recovery}
    how |= {"ms": option_values.numbers("--ms", ms)}
    how |= {"reconstruct": reconstruct, "permute": permute, "checkpoint": checkpoint}
    how |= {"skip": tuple(skip or ()), "skip_defaults": skip_defaults}
    report = sf.prune(loaded, method, batches, **how)  # type: ignore[arg-type]
    if save_packed:
        sf.nn.sparsify(loaded, prune=None, skip=tuple(skip or ()), skip_defaults=skip_defaults, tune="off")
    save_model(loaded, tokenizer, out, {REPORT: report.to_dict()})
    if isinstance(report, sf.pruning.BudgetReport) and frontier is not None:
        report.to_html(frontier) if frontier.suffix == ".html" else report.to_png(frontier, dark=dark)
    if plot is not None:
        from sparseflow.evaluation.layer_plot import error_by_layer

        error_by_layer({method: report}, plot, dark=dark)
    answer(report.to_dict(), report.table, as_json=as_json, saved=out)


def _require_frontier(path: Path | None, *, budgeted: bool) -> None:
    option_values.require_folder(path)
    if path is None:
        return
    if not budgeted:
        raise ArgumentError(f"--frontier {path}", "is of a budget", "give --max-loss or --max-bytes too")
    if path.suffix not in (".html", ".png"):
        raise ArgumentError(f"--frontier {path}", "must end in .html or .png")


def _batches(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    path: Path,
    samples: int,
    length: int,
    seed: int,
) -> Sequence[Tensor | dict[str, Tensor]]:
    """Return random pieces of a text for a decoder, or its first lines for an encoder."""
    if not is_causal(model):
        return text_batches(read_lines(path, samples), tokenizer)
    import torch

    from sparseflow.evaluation import read_tokens

    tokens, _ = read_tokens(path, tokenizer)
    rows = len(tokens) // length
    if not rows:
        raise ArgumentError(
            f"--calibration {path}",
            f"has {len(tokens)} tokens, fewer than --length {length}",
            "give more text",
        )
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:samples]
    return [row.unsqueeze(0) for row in tokens[: rows * length].view(rows, length)[order]]
