"""`sparseflow tune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.exit_codes import UNFINISHED
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import from_config, read_config

if TYPE_CHECKING:
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
    shapes: Annotated[
        Path | None,
        typer.Option(help="JSON file of layers, the most important first: [N, K], or objects with n and k."),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(_DTYPES)}; may be repeated.")
    ] = None,
    m: Annotated[list[int] | None, typer.Option(help="Rows to measure; by default 1, 2, 4 … 16384.")] = None,
    effort: Annotated[
        str, typer.Option(help="full: every algorithm; quick: the few that look best, at thirteen M's.")
    ] = "full",
    device: Annotated[str, typer.Option(help="The GPU to tune.")] = "cuda",
    folder: Annotated[Path | None, typer.Option(help="Where the table is; default: the cache.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what the table has.")] = False,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which to stop cleanly.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure the algorithms of this GPU for the layers of a model, or for given shapes.

    What a table already has is not measured again; an interrupted tuning goes on where it stopped.
    """
    if (model is None) == (not shape and shapes is None):
        raise ArgumentError(
            "sparseflow tune", "needs a model or shapes, and not both", "give --shape 4096x4096"
        )
    dtypes = None if not dtype else [option_values.dtype(name, _DTYPES) for name in dtype]
    layers = [option_values.shape("--shape", text) for text in shape or ()]
    layers += [] if shapes is None else read_shapes(shapes)
    target: nn.Module | list[tuple[int, int]] = layers if model is None else _meta_model(model)
    from sparseflow.api.tune import tune as run
    from sparseflow.runtime.tuning.point import Effort

    result = run(
        target,
        dtypes=dtypes,
        ms=m,
        device=option_values.named_device(device),
        effort=cast(Effort, effort),  # checked there
        folder=folder,
        force=force,
        deadline=deadline,
    )
    answer(result.to_dict(), lambda _: _text(result), as_json=as_json, saved=result.path)
    if result.remaining:
        raise typer.Exit(UNFINISHED)


def read_shapes(path: Path) -> list[tuple[int, int]]:
    """Return the layers (N, K) that a file lists, each once.

    Raises:
        ArgumentError: it can't be read, or an entry is no layer.
    """
    subject = f"sparseflow tune --shapes {path}"
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentError(subject, f"can't be read: {error}") from None
    if not isinstance(entries, list):
        raise ArgumentError(subject, "must hold a JSON list")
    return list(dict.fromkeys(_layer(subject, entry) for entry in entries))


def _layer(subject: str, entry: object) -> tuple[int, int]:
    sizes = [entry.get("n"), entry.get("k")] if isinstance(entry, dict) else entry
    if isinstance(sizes, list) and len(sizes) == 2:
        n, k = sizes
        if type(n) is int and type(k) is int and min(n, k) >= 1:
            return n, k
    raise ArgumentError(subject, f"a layer is [N, K] or has n and k, two positive integers, not {entry!r}")


def _meta_model(folder: Path) -> nn.Module:
    """Return the model of a transformers configuration, without any weights."""
    import torch

    config = read_config(folder)
    with torch.device("meta"):
        return from_config(folder, config)


def _text(result: TuneResult) -> str:
    lines = [
        f"{point.n}×{point.k} {point.dtype}, M={point.m}: {point.figures()}" for point in result.measured
    ]
    lines += [f"{task}: left out, {why}" for task, why in result.skipped]
    lines.append(f"{len(result.measured)} points measured, {len(result.known)} known before")
    if result.failed:
        lines.append(f"{len(result.failed)} candidates failed; the table says which and why")
    if result.remaining:
        lines.append(f"{len(result.remaining)} points remain: run the command again")
    return "\n".join(lines)
