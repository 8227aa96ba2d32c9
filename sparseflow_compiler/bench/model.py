"""Benchmark whole models, dense and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from sparseflow.api.compile import compile as sparseflow_compile
from sparseflow.execution.opponent import opponent
from sparseflow.profiling.measure_model import Bench, call
from sparseflow.profiling.workload import Phase, workload
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.checks import dtype_name

if TYPE_CHECKING:
    from sparseflow.support.progress import Step


def model_rows(
    name: str,
    model: nn.Module,
    calls: Sequence[tuple[int, int]],
    phase: Phase,
    seconds: float,
    step: Step,
    **options: Any,
) -> list[dict[str, object]]:
    """Time calls of a transformers model, original and compiled, in turns.

    Args:
        name: the model's name in the rows.
        model: in evaluation mode.
        calls: samples and tokens of each call.
        phase: ``"prefill"`` or ``"decode"``.
        seconds: the approximate duration of measuring each call.
        step: called for each call.
        options: options of `sparseflow.compile`; the original model runs with the same ``inner`` and
            ``mode``.

    Returns:
        A row for each call: milliseconds, and bytes of the linear layers' weights.

    Raises:
        ArgumentError: a size is below 1, or the model has no such phase.
        SparseFlowError: the model can't be compiled.
    """
    compiled = sparseflow_compile(model, **options)
    device, rows = device_of(model), list[dict[str, object]]()
    inner, dense = opponent(model, device, **options)
    for batch, seq in calls:
        step(len(rows), len(calls), f"batch {batch}, {seq} tokens")
        work = workload(model, batch, seq, phase)
        bench = Bench(device, work.before or (lambda: None))
        runs = [call(side, (), work.kwargs) for side in (dense, compiled)]
        for run in runs:
            bench.warm_up(run)
        before, after = bench.medians(runs, seconds)
        report = compiled.report
        rows.append(
            {
                "model": name,
                "phase": phase,
                "batch": batch,
                "seq": seq,
                "dtype": dtype_name(next(model.parameters()).dtype),
                "mode": inner,
                "dense_ms": round(before * 1e3, 4),
                "ours_ms": round(after * 1e3, 4),
                "speedup": round(before / after, 3),
                "sparse_layers": sum(layer.decision == "sparse" for layer in report.layers),
                "layers": len(report.layers),
                "weights_bytes_dense": report.model["bytes_dense"],
                "weights_bytes_ours": report.model["bytes"],
            }
        )
    return rows
