"""`sparseflow bench contextual`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.errors import ArgumentError


def contextual(
    config: Annotated[
        Path | None, typer.Option(help="A .json or .toml file with the options below by their names.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="predictors: neurons of MLPs; activations: inputs of all linear layers; predictors."
        ),
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden features; 3072.")] = None,
    intermediate: Annotated[int | None, typer.Option(help="Neurons of each MLP; 8192.")] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers; 4.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads; 24.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Heads of keys and values; 8.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Tokens in the vocabulary; 128256.")] = None,
    rates: Annotated[
        str | None,
        typer.Option(help="Active neurons: a share, or one for each layer, such as 0.3,0.2; 0.25."),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the predictors; 4% of the neurons.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; float32.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Tokens of each prompt; 50,200,500.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Decoded after each prompt; 16.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Answers to each prompt on each side; 3.")] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="Beside dense: contextual, contextual+2:4, or both with a comma.")
    ] = None,
    left_out: Annotated[
        str | None,
        typer.Option(help="With activations: shares of inputs left out, a side each; 0.25,0.4,0.5."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time a Llama that reads only the weights that a token needs, beside the dense one.

    Weights are random, and so are predictors: which neurons they select means nothing, how many is as the
    rates say. Prints time to first token, output tokens a second, the time that reading the weights takes at
    least, and memory.
    """
    given = {
        "method": method,
        "hidden": hidden,
        "intermediate": intermediate,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "vocab": vocab,
        "rates": _numbers("--rates", rates, float),
        "rank": rank,
        "dtype": dtype,
        "prompts": _numbers("--prompts", prompts, int),
        "tokens": tokens,
        "repeats": repeats,
        "left_out": _numbers("--left-out", left_out, float),
        "sparsity": None if sparsity is None else sparsity.split(","),
    }
    values = {} if config is None else _read(config)
    values |= {name: value for name, value in given.items() if value is not None}
    from sparseflow.bench.contextual_config import BenchConfig

    checked = BenchConfig.of(values)
    from sparseflow.bench.contextual import bench_contextual, table
    from sparseflow.support.progress import progress_bars

    where = option_values.device(device)
    with progress_bars(None) as bars:
        result = bench_contextual(checked, where, bars.stage("bench"))
    answer(result, lambda width: table(result, width), as_json=as_json)


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> list[object] | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"{option} {text}", "must be numbers with commas between them") from None


def _read(path: Path) -> dict[str, object]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--config {path}", f"can't be read: {error}", "write .json or .toml") from None
    if not isinstance(found, dict):
        raise ArgumentError(f"--config {path}", "must hold options by their names")
    return found
