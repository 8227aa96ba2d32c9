"""Where compute-bound models' time goes: `bench_model.py --account`, into ``model_kernels_<gpu>.json``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import _measure
from _gpus import a_turn
from _kernel_times import by_kind, kernel_times
from _model_bench import Bench, Call

import sparseflow as sf
from sparseflow.execution import inner

KEPT = 20
"""So many kernels of a side are kept, the longest."""

_ROWS: list[dict[str, Any]] = []
"""Of all models of a run."""


def in_pieces(make: Callable[[], sf.CompiledModel], inputs: Mapping[str, Any]) -> Call:
    """A compiled model without our kernels that hold rows between products, beside one that has them."""
    call = functools.partial(make(), **inputs)
    with mock.patch.multiple(inner, keep_rows_quantized=lambda _: 0, hold_normed_rows=lambda _: 0):
        call()  # compiles
    return call


def account(
    bench: Bench, head: Mapping[str, Any], sides: Mapping[str, Call], compiled: sf.CompiledModel, rows: int
) -> None:
    """Write each side's kernels, and what the policies run for so many rows.

    Args:
        bench: the run.
        head: which model it is.
        sides: what ran, warm.
        compiled: of ours.
        rows: of the products.
    """
    for name, side in sides.items():
        with a_turn():
            kernels = kernel_times(side) if bench.on_gpu else []
        _ROWS.append({**head, "side": name, **by_kind(kernels), "kernels": kernels[:KEPT]})
    _ROWS.append({**head, "side": "policies", "rows": rows, "policies": policies_of(compiled, rows)})
    _measure.write(bench.name.replace("model", "model_kernels"), bench.head, _ROWS, bench.folder)


def policies_of(compiled: sf.CompiledModel, rows: int) -> list[dict[str, Any]]:
    """What each shape's policy runs for so many rows, with the speed-ups that were measured near it."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for layer in compiled.report.layers:
        runs = [r for r in layer.ranges if r.m_min <= rows and (r.m_max is None or rows <= r.m_max)]
        found[layer.N, layer.K] = {
            "N": layer.N,
            "K": layer.K,
            "runs": runs[0].backend if runs else layer.decision,
            "measured": {m: round(speedup, 3) for m, speedup in layer.measured if rows <= 4 * m <= 16 * rows},
        }
    return list(found.values())
