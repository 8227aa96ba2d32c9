"""`sparseflow bench`: products and models on this device, dense beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.bench_contextual import contextual
from sparseflow.cli.bench_serve import serve
from sparseflow.cli.named_models import named_model, require_phase
from sparseflow.cli.quiet_output import quietly
from sparseflow.cli.report import page_text
from sparseflow.cli.verbosity import spoken
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch

bench = typer.Typer(help="Measure dense beside ours on this device.", no_args_is_help=True)
bench.command()(spoken(quietly(contextual)))
bench.command()(spoken(serve))

_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for `sparseflow report`.")]
_Device = Annotated[str | None, typer.Option(help="By default the GPU, if there is one.")]


@bench.command()
@spoken
def gemm(
    shape: Annotated[list[str], typer.Option(help="A layer, NxK; may be repeated.")],
    m: Annotated[list[int] | None, typer.Option(help="Rows of x; by default 1, 16, 256 and 1024.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(option_values.DTYPES)}; may be repeated.")
    ] = None,
    device: _Device = None,
    as_json: _AsJson = False,
) -> None:
    """Time the sparse product and the dense one with the same pruned weight, in turns."""
    shapes = [option_values.shape("--shape", text) for text in shape]
    ms = m or [1, 16, 256, 1024]
    option_values.require_positive("--m", ms)
    where = option_values.device(device)
    dtypes = [option_values.dtype(name) for name in dtype or ["bfloat16"]]
    from sparseflow.bench import gemm_rows
    from sparseflow.support.progress import progress_bars

    with progress_bars(None) as bars:
        rows = gemm_rows([(n, k) for n, k in shapes], ms, dtypes, where, bars.stage("bench"))
    _show(where, rows, as_json)


@bench.command()
@spoken
@quietly
def model(
    model: Annotated[str, typer.Argument(help="A built-in shape, or the folder of a transformers model.")],
    batch: Annotated[list[int] | None, typer.Option(help="Samples; may be repeated. By default 1.")] = None,
    seq: Annotated[list[int] | None, typer.Option(help="Tokens; may be repeated. By default 512.")] = None,
    phase: Annotated[str, typer.Option(help="prefill or decode.")] = "prefill",
    layers: Annotated[int | None, typer.Option(help="Only so many layers.")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(option_values.DTYPES)}.")] = None,
    device: _Device = None,
    inner: Annotated[str, typer.Option(help="What runs both sides' graphs: eager or inductor.")] = "eager",
    policy: Annotated[str, typer.Option(help="auto, or sparse: no layer dense.")] = "auto",
    memory: Annotated[str, typer.Option(help="auto, compressed or fast.")] = "auto",
    seconds: Annotated[float, typer.Option(help="About how long to measure each call.")] = 3.0,
    as_json: _AsJson = False,
) -> None:
    """Time a model as it is and compiled, in turns, with random 2:4 weights: they cost the same time."""
    import torch

    require_phase(phase)
    where = option_values.device(device)
    kind = option_values.dtype(dtype or ("bfloat16" if where.type == "cuda" else "float32"))
    calls = [(samples, tokens) for samples in batch or [1] for tokens in seq or [512]]
    from sparseflow.bench import model_rows
    from sparseflow.profiling.workload import Phase
    from sparseflow.pruning import prune
    from sparseflow.support.progress import progress_bars

    how = {"inner": inner, "policy": policy, "memory": memory}
    try:
        built = named_model(model, layers, kind, where)
        prune(built, progress=False)
        with progress_bars(None) as bars:
            rows = model_rows(model, built, calls, cast(Phase, phase), seconds, bars.stage("bench"), **how)
    except torch.OutOfMemoryError:
        raise ArgumentError(
            f"model {model}", f"doesn't fit {where}, dense and compiled", "fewer --layers"
        ) from None
    _show(where, rows, as_json)


@bench.command()
@spoken
@quietly
def generate(
    model: Annotated[str, typer.Argument(help="A built-in shape, or the folder of a transformers model.")],
    batch: Annotated[list[int] | None, typer.Option(help="Sequences; may be repeated. By default 1.")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Tokens of the prompt; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(help="To decode.")] = 64,
    repeats: Annotated[int, typer.Option(help="Turns of which the median is taken.")] = 5,
    layers: Annotated[int | None, typer.Option(help="Only so many layers.")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(option_values.DTYPES)}.")] = None,
    device: _Device = None,
    policy: Annotated[str, typer.Option(help="auto, or sparse: no layer dense.")] = "auto",
    torch_compile: Annotated[bool, typer.Option(help="Whether torch.compile runs beside.")] = True,
    peer: Annotated[str | None, typer.Option(help="llama.cpp=PATH of llama-bench, to run it too.")] = None,
    gguf: Annotated[list[Path] | None, typer.Option(help="A model for the peer; may be repeated.")] = None,
    as_json: _AsJson = False,
) -> None:
    """Time greedy decoding, dense and compiled, in turns, beside a read of as many bytes; random weights."""
    option_values.require_positive("--tokens", [tokens - 1])
    option_values.require_positive("--repeats", [repeats])
    calls = [(samples, length) for samples in batch or [1] for length in context or [128]]
    option_values.require_positive("--batch or --context", [size for call in calls for size in call])
    where = option_values.device(device)
    kind = option_values.dtype(dtype or ("bfloat16" if where.type == "cuda" else "float32"))
    binary = _peer(peer, gguf or [], where, calls)
    from sparseflow.bench import generate_rows
    from sparseflow.pruning import prune
    from sparseflow.support.progress import progress_bars

    built = named_model(model, layers, kind, where)
    prune(built, "magnitude")
    # Inductor from the first token on: this measures decoding, not when compiling pays.
    how: dict[str, Any] = {"inner": "inductor", "policy": policy, "torch_compile": torch_compile}
    with progress_bars(None) as bars:
        rows = generate_rows(model, built, calls, tokens, repeats, bars.stage("bench"), **how)
    if binary is not None:
        rows += _peer_rows(binary, gguf or [], calls, tokens, repeats)
    _show(where, rows, as_json)


def _peer(
    peer: str | None, files: Sequence[Path], device: torch.device, calls: Sequence[tuple[int, int]]
) -> Path | None:
    """Return the program of a peer, or None; what it can't run is refused before anything is measured."""
    if peer is None:
        if files:
            raise ArgumentError("--gguf", "is for a peer", "give --peer llama.cpp=PATH too")
        return None
    name, _, path = peer.partition("=")
    if name != "llama.cpp" or not path:
        raise ArgumentError("--peer", f"{peer!r} is not of the form llama.cpp=PATH", "give that")
    if not files:
        raise ArgumentError("--peer", "needs a model", "give --gguf FILE")
    if device.type != "cpu":
        raise ArgumentError("--peer", f"is measured on a CPU, not on {device}", "give --device cpu")
    if all(batch != 1 for batch, _ in calls):
        raise ArgumentError("--peer", "llama-bench decodes one sequence", "give --batch 1")
    return Path(path)


def _peer_rows(
    binary: Path, files: Sequence[Path], calls: Sequence[tuple[int, int]], tokens: int, repeats: int
) -> list[dict[str, Any]]:
    import torch

    from sparseflow.bench import llama_cpp_rows

    contexts = [context for batch, context in calls if batch == 1]
    return llama_cpp_rows(binary, files, contexts, tokens, repeats, torch.get_num_threads())


def _show(device: torch.device, rows: Sequence[dict[str, object]], as_json: bool) -> None:
    from sparseflow.bench import result
    from sparseflow.reports import Source, page_of

    found = result(device, rows)
    answer(found, page_text(page_of([Source("bench", found)])), as_json=as_json)
