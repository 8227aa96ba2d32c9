"""`sparseflow bench serve`."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.errors import ArgumentError


def serve(
    model: Annotated[Path, typer.Argument(help="Folder of the dense transformers model.")],
    sparse: Annotated[
        Path | None,
        typer.Argument(help="Folder of the pruned one; without it the dense one is pruned by magnitude."),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Requests a second; may be repeated. By default shares of what dense can do."),
    ] = None,
    requests: Annotated[int, typer.Option(help="At each rate, and all at once.")] = 64,
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 512,
    answer_tokens: Annotated[int, typer.Option("--answer", help="Tokens of each answer.")] = 256,
    rounds: Annotated[int, typer.Option(help="Starts of each server, in turns.")] = 1,
    policy: Annotated[str, typer.Option(help="auto, or sparse: no layer dense.")] = "auto",
    format: Annotated[str, typer.Option(help="2:4 or 2:4-fp8.")] = "2:4",
    vocabulary: Annotated[int, typer.Option(help="Prompts are of token ids below this.")] = 1000,
    vllm: Annotated[str, typer.Option(help='More options of both servers: "--max-num-seqs 64".')] = "",
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="Two of them: each server runs on its own, and both start at once."),
    ] = None,
    cache: Annotated[
        float | None,
        typer.Option(
            help="GiB of each server's KV cache: both start at once on one GPU that has the memory."
        ),
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds that a server may take to start.")] = 600.0,
    log: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw throughput and waiting into this file.")] = None,
    dark: option_values.Dark = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Serve a model with vLLM, dense and sparse, and send both the same requests at several rates.

    Prints throughput, time to the first token (TTFT), time per token (TPOT), and the size of the KV cache.
    """
    sizes = (requests, prompt, answer_tokens, rounds, vocabulary - 3)
    option_values.require_positive("--requests, --prompt, --answer, --rounds or --vocabulary", sizes)
    option_values.require_folder(plot)
    if gpu and (len(gpu) != 2 or gpu[0] == gpu[1]):
        raise ArgumentError(f"--gpu {' '.join(gpu)}", "one is needed for each server", "--gpu 0 --gpu 1")
    if cache is not None and cache <= 0:
        raise ArgumentError(f"--cache {cache:g}", "must be above 0", "leave it out")
    if any(each <= 0 for each in rate or []):
        raise ArgumentError("--rate", "must be above 0", "leave it out for shares of what dense can do")
    from sparseflow.bench.completions_client import Requests
    from sparseflow.bench.serve import Contender, Plan, serve_chart, serve_rows, serve_table

    shared = ["--max-model-len", str(prompt + answer_tokens + 16), *shlex.split(vllm)]
    ours: dict[str, object] = {"policy": policy, "format": format}
    if sparse is None:
        ours["prune"] = "magnitude"
    places = gpu or (None, None)
    size = None if cache is None else int(cache * 2**30)
    contenders = (
        Contender("dense", model, shared, gpu=places[0], cache=size),
        Contender("sparse", sparse or model, shared, ours, gpu=places[1], cache=size),
    )
    asked = Requests(requests, prompt, answer_tokens, vocabulary)
    with tempfile.TemporaryDirectory() as work:
        if log is not None:
            log.mkdir(parents=True, exist_ok=True)
        *_, rows = serve_rows(*contenders, Plan(asked, list(rate or []), rounds, limit, log or Path(work)))
    if plot is not None:
        serve_chart(rows, plot, dark=dark)
    from sparseflow.bench import result

    found = result(option_values.device(None), rows)
    answer(found, lambda width: serve_table(rows, width), as_json=as_json)
