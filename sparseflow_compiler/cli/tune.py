"""`sparseflow tune`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparseflow.cli.models import from_config, read_config, unreadable
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sparseflow.runtime.tuning import TuneResult

_DTYPES = ("bfloat16", "float16", "float8_e4m3fn")


def tune(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a transformers model; only its config.json is read.", show_default=False
        ),
    ] = None,
    shape: Annotated[list[str] | None, typer.Option(help="A layer, NxK; may be repeated.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(_DTYPES)}; may be repeated.")
    ] = None,
    m: Annotated[list[int] | None, typer.Option(help="Rows to measure; by default 1, 2, 4 … 16384.")] = None,
    device: Annotated[str, typer.Option(help="The GPU to tune.")] = "cuda",
    folder: Annotated[Path | None, typer.Option(help="Where the table is; default: the cache.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what the table has.")] = False,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which to stop cleanly.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure every algorithm of this GPU for the layers of a model, or for given shapes.

    What a table already has is not measured again; an interrupted tuning goes on where it stopped.
    """
    if (model is None) == (not shape):
        raise ArgumentError(
            "sparseflow tune", "needs a model or shapes, and not both", "give --shape 4096x4096"
        )
    dtypes = None if not dtype else [_dtype(name) for name in dtype]
    target: Any = _meta_model(model) if model is not None else [_shape(text) for text in shape or ()]
    from sparseflow.api.tune import tune as run

    result = run(target, dtypes=dtypes, ms=m, device=device, folder=folder, force=force, deadline=deadline)
    print(json.dumps(result.to_dict()) if as_json else _text(result))
    if result.remaining:
        raise typer.Exit(3)


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None:
        raise ArgumentError(
            f"--shape {text}", "is not of the form NxK", "write for example --shape 4096x14336"
        )
    return int(match[1]), int(match[2])


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ArgumentError(f"--dtype {name}", f"must be one of {', '.join(_DTYPES)}")
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def _meta_model(folder: Path) -> nn.Module:
    """The model of a transformers configuration, without any weights."""
    import torch

    config = read_config(folder)
    try:
        with torch.device("meta"):
            return from_config(config)
    except ValueError as error:
        raise unreadable(folder, error) from None


def _text(result: TuneResult) -> str:
    lines = [
        f"{point.n}×{point.k} {point.dtype}, M={point.m}: {point.figures()}" for point in result.measured
    ]
    lines += [f"{task}: left out, {why}" for task, why in result.skipped]
    lines.append(f"{len(result.measured)} points measured, {len(result.known)} known before: {result.path}")
    if result.failed:
        lines.append(f"{len(result.failed)} candidates failed; the table says which and why")
    if result.remaining:
        lines.append(f"{len(result.remaining)} points remain: run the command again")
    return "\n".join(lines)
