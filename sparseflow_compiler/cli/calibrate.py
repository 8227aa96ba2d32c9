"""`sparseflow calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparseflow.cli.answer import answer
from sparseflow.cli.saved_models import load_model
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import read_tokenizer


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a transformers model.")],
    out: Annotated[Path, typer.Argument(help="File to write: the thresholds, JSON.")],
    text: Annotated[
        Path | None, typer.Option(help="Text, or token ids in .npy, .pt or .safetensors; else its own.")
    ] = None,
    loss: Annotated[
        float | None, typer.Option(help="How much the perplexity may rise; 0.02 if no rate is given.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Share of the weights to leave out for a token.")] = None,
    tokens: Annotated[int, typer.Option(help="The most tokens to look at.")] = 4096,
    window: Annotated[int, typer.Option(help="The most tokens of one sequence.")] = 512,
    skip: Annotated[
        list[str] | None, typer.Option(help="Pattern of layers that read every input; may be repeated.")
    ] = None,
    skip_defaults: Annotated[
        bool, typer.Option(help="Let heads, embeddings and adapters read every input.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as saved.")] = None,
    device: Annotated[str, typer.Option(help="Where to calibrate.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the thresholds as JSON.")] = False,
) -> None:
    """Choose below which magnitude the linear layers of a language model leave out their inputs.

    The file is for `sparseflow compile --thresholds` and `sf.compile(contextual=…)`.
    """
    if not out.parent.is_dir():
        raise ArgumentError(str(out), f"its folder {out.parent} doesn't exist", "make it first")
    loaded, tokenizer = load_model(model, dtype, device), read_tokenizer(model)
    import sparseflow as sf
    from sparseflow.evaluation import read_tokens

    found = sf.calibrate_activations(
        loaded,
        "self" if text is None else read_tokens(text, tokenizer)[0],
        loss=loss,
        rate=rate,
        tokenizer=tokenizer,
        tokens=tokens,
        window=window,
        skip=tuple(skip or ()),
        skip_defaults=skip_defaults,
        seed=seed,
    )
    found.save(out)
    answer(found.to_dict(), found.table, as_json=as_json, saved=out)
