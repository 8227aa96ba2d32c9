"""`sparseflow profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.named_models import named_model, require_phase
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch

    from sparseflow.profiling import Profile
    from sparseflow.profiling.workload import Workload


def profile(
    model: Annotated[str, typer.Argument(help="A built-in shape, or the folder of a transformers model.")],
    layers: Annotated[int | None, typer.Option(help="Only so many layers.")] = None,
    batch: Annotated[int, typer.Option(help="Samples.")] = 1,
    seq: Annotated[int, typer.Option(help="Tokens of each; for decode those in the cache.")] = 512,
    phase: Annotated[str, typer.Option(help="prefill or decode.")] = "prefill",
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(option_values.DTYPES)}.")] = None,
    device: Annotated[str | None, typer.Option(help="By default the GPU, if there is one.")] = None,
    inner: Annotated[str, typer.Option(help="What runs both sides' graphs: eager or inductor.")] = "eager",
    policy: Annotated[str, typer.Option(help="auto, or sparse: no layer dense.")] = "auto",
    memory: Annotated[str, typer.Option(help="auto, compressed or fast.")] = "auto",
    calls: Annotated[int, typer.Option(help="Calls in each profile.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Draw them to this .png, .svg or .pdf file.")] = None,
    dark: option_values.Dark = False,
) -> None:
    """Show where a model's time goes, dense and compiled, and what sparse kernels can gain at most.

    The model gets random weights that are 2:4: they cost the same time. Built-in shapes: llama-3-8b,
    llama-3-70b, qwen3-0.6b, gpt2, bert-base, vit-base.
    """
    import torch

    option_values.require_folder(chart)
    where = option_values.device(device)
    name = dtype or ("bfloat16" if where.type == "cuda" else "float32")
    how: dict[str, object] = {
        "inner": inner,
        "policy": policy,
        "memory": memory,
        "calls": calls,
    }
    kind = option_values.dtype(name)
    require_phase(phase)
    from sparseflow.profiling.workload import Phase, workload
    from sparseflow.pruning import prune

    try:
        work = workload(named_model(model, layers, kind, where), batch, seq, cast(Phase, phase))
        prune(work.model, progress=False)
        result = _run(work, model, {"phase": phase, "batch": batch, "seq": seq, "dtype": name}, where, how)
    except torch.OutOfMemoryError:
        raise ArgumentError(
            f"model {model}", f"doesn't fit {where} twice, dense and compiled", "profile fewer --layers"
        ) from None
    if chart is not None:
        result.chart(chart, dark=dark)
    answer(result.to_dict(), result.table, as_json=as_json)


def _run(
    work: Workload, model: str, call: dict[str, object], device: torch.device, how: dict[str, Any]
) -> Profile:
    from sparseflow.profiling import profile as run
    from sparseflow.profiling.measure_model import device_name

    calls: int = how["calls"]
    if work.most_calls is not None and calls > work.most_calls:
        raise ArgumentError(f"--calls {calls}", f"the cache has room for {work.most_calls} calls")
    meta = {
        "model": model,
        "layers": work.model.config.num_hidden_layers,  # type: ignore[union-attr]  # transformers' configuration
        **{key: value for key, value in call.items() if key != "seq" or "input_ids" in work.kwargs},
        "device": device_name(device),
    }
    return run(work.model, kwargs=work.kwargs, before=work.before, meta=meta, **how)
