"""What a norm between products takes that a kernel of ours holds: `python benchmarks/bench_norms.py`.

The norms of the models of `_model_compute.py` with all that is around them: a product is added to the stream
by a gate, the sum normalised, scaled and shifted; in fp8 the product is scaled and rows are quantised too.
Beside it the same by torch.compile, by itself and with kernels that hold whole rows, and the time of a copy
of as many bytes. In microseconds of device time, in turns, as CUDA graphs over rows past the cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _measure
import _sides
import torch
from bench_skinny import copy_bandwidth
from torch import Tensor

from sparseflow.execution.persistent_rows import WHOLE_ROWS, choosing_anew
from sparseflow.runtime import gpu, normed_rows
from sparseflow.runtime.tuning import GpuMachine

SHAPES = {"flux": (1, 4608, 3072), "pixart": (2, 4096, 1152), "wide": (1, 4096, 5120)}
"""Batch, tokens and features."""
PAST_THE_CACHE = 300 << 20
EPS = 1e-6

Arguments = tuple[Tensor | None, ...]


def arguments(batch: int, tokens: int, k: int, quantized: bool) -> Arguments:
    """What is normed, and what is around it."""

    def drawn(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*sizes, device="cuda").to(dtype)

    table = drawn(batch, 6, 1, k)  # as a model's time step gives them: a batch's vectors six rows apart
    scales: Arguments = (None, None)
    if quantized:
        scales = (drawn(batch, tokens, 1, dtype=torch.float32), drawn(k, dtype=torch.float32))
    around = (drawn(k), table[:, 2], None, None, table[:, 1], table[:, 0])
    return (drawn(batch, tokens, k), drawn(batch, tokens, k), *scales, *around)


def moved_bytes(batch: int, tokens: int, k: int, quantized: bool) -> int:
    """Stream and product are read, the stream and the rows written."""
    return batch * tokens * k * (3 * 2 + (1 if quantized else 2))


def row(name: str, quantized: bool, seconds: float, copying: float) -> dict[str, Any]:
    """Times of one norm by side."""
    batch, tokens, k = SHAPES[name]
    moved = moved_bytes(batch, tokens, k, quantized)
    inputs = [arguments(batch, tokens, k, quantized) for _ in range(-(-PAST_THE_CACHE // moved))]

    def plain(*given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = normed_rows.portable(*given, EPS, quantized)
        return found

    compiled = {
        "torch_compile": torch.compile(plain, dynamic=False),
        "torch_compile_rows": torch.compile(plain, dynamic=False, options=WHOLE_ROWS),
    }

    def side(call: Callable[..., Any]) -> Callable[[int], Any]:
        return lambda copy: call(*inputs[copy])

    sides = {"ours": side(lambda *given: normed_rows.normed_rows(*given, EPS, quantized))}
    with choosing_anew():
        for by, call in compiled.items():
            call(*inputs[0])
            sides[by] = side(call)
        us = _sides.device_us(sides, {}, len(inputs), seconds)
    floor = moved / copying / 1e3
    return {
        "model": name, "K": k, "M": batch * tokens, "quantized": quantized,
        **{f"{by}_us": round(time, 2) for by, time in us.items()},
        "copy_us": round(floor, 2), "of_copy": round(floor / us["ours"], 3),
    }  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring for each norm")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    gpu.require()
    torch.manual_seed(0)
    machine = GpuMachine.here(0)
    copying = copy_bandwidth()
    head = _measure.meta(machine.gpu, machine=vars(machine), copy_gb_per_s=round(copying))
    rows: list[dict[str, Any]] = []
    for name in args.models:
        for quantized in (False, True):
            with torch.no_grad():
                rows.append(row(name, quantized, args.seconds, copying))
            print(rows[-1], file=sys.stderr, flush=True)
            _measure.write(_measure.gpu_name("norms", machine.gpu), head, rows, args.results)
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
