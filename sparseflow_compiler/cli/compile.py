"""`sparseflow compile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli.answer import answer
from sparseflow.cli.report import report_text
from sparseflow.cli.saved_models import load_model
from sparseflow.integrations.transformers.models import read_tokenizer

if TYPE_CHECKING:
    from sparseflow.api.compiled import CompiledModel

_BATCHES = (2, 1)
"""Batches larger than 2 use the program for 2; torch.export may need another program for a batch of 1."""

_TOKENS = 8


def compile_model(
    model: Annotated[Path, typer.Argument(help="Folder of a transformers model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, for sf.load.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Input of the calls to come; may be repeated. By default the main one."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as saved.")] = None,
    device: Annotated[str, typer.Option(help="Where it will run.")] = "cpu",
    prune: Annotated[str, typer.Option(help="magnitude, or none: only what is 2:4 already.")] = "none",
    skip: Annotated[
        list[str] | None, typer.Option(help="Pattern of layers that stay dense; may be repeated.")
    ] = None,
    skip_defaults: Annotated[
        bool, typer.Option(help="Keep heads, embeddings and adapters dense, besides what --skip names.")
    ] = True,
    policy: Annotated[str, typer.Option(help="auto, or sparse: no layer dense.")] = "auto",
    memory: Annotated[str, typer.Option(help="auto, compressed or fast.")] = "auto",
    format: Annotated[
        str, typer.Option(help="How sparse layers store their weights: 2:4 or 2:4-fp8; int8 with thresholds.")
    ] = "2:4",
    tune: Annotated[
        str, typer.Option(help="Measure what no table of the GPU has: quick, full, or off.")
    ] = "quick",
    thresholds: Annotated[
        Path | None, typer.Option(help="File of `sparseflow calibrate`: layers leave out smaller inputs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compile a transformers model into a folder that `sf.load` runs, without the model's code.

    It will serve calls of any batch and length with the named inputs; a model that generates also calls with
    a cache that it returned, and `generate`. The tokenizer in the folder comes along.
    """
    from sparseflow.runtime.artifact.writing import require_free

    require_free(out)
    loaded = load_model(model, dtype, device)
    import sparseflow as sf

    compiled = sf.compile(
        loaded,
        prune=None if prune == "none" else prune,  # type: ignore[arg-type]  # sf.compile says what it may be
        policy=policy,  # type: ignore[arg-type]
        memory=memory,  # type: ignore[arg-type]
        format=format,
        tune=tune,  # type: ignore[arg-type]
        inner="eager",
        inplace=True,
        skip=tuple(skip or ()),
        skip_defaults=skip_defaults,
        contextual=None if thresholds is None else sf.ActivationThresholds.load(thresholds),
    )
    _serve(compiled, inputs or [str(loaded.main_input_name)])
    compiled.save(out, tokenizer=read_tokenizer(model))
    report = compiled.report
    answer(report.to_dict(), report_text(report), as_json=as_json, saved=out)


def _serve(compiled: CompiledModel, names: Sequence[str]) -> None:
    """Make the calls that the artifact must serve."""
    import torch

    from sparseflow.execution import warmup
    from sparseflow.integrations.transformers.argument_names import (
        generates,
        next_input,
        returned_cache,
        with_cache,
    )

    with torch.no_grad():
        for call in warmup.calls(compiled, _BATCHES, _TOKENS, names):
            if generates(compiled) and compiled.config.is_encoder_decoder:
                compiled.generate(**call, do_sample=False, eos_token_id=None, max_new_tokens=3)
                continue
            output = compiled(**call)
            if generates(compiled):
                following = {name: next_input(name, value) for name, value in call.items()}
                compiled(**following, **with_cache(compiled, returned_cache(output)))
                warmup.generate_calls(compiled.generate, call, {}, padded=False)
