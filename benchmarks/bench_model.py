"""Whole models beside torch.compile in the same mode: `python benchmarks/bench_model.py`.

Both sides run in one process, in turn, over the same 2:4 weights. Every row is written as it is measured, so
that a run that is stopped keeps what it has. A part that runs out of its time is left, the next begins.
`--tiny` runs all parts with small models on the CPU, as a test of the script.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import _measure
import _models
import torch
from _limits import limited
from _model_bench import BITS, Bench
from _model_compute import COMPUTE
from _model_full import full
from _model_generate import generate
from _model_parts import SMALL, decode, fp8, prefill

PARTS: dict[str, Callable[[Bench], None]] = {
    "prefill": prefill,
    "fp8": fp8,
    "decode": decode,
    "generate": generate,
    **SMALL,
    **COMPUTE,
    "full8b": functools.partial(full, size="8b"),
    "full70b": functools.partial(full, size="70b"),
}
LIMITS = {"full70b": 300}
LIMIT = 150
"""Seconds for each part that `LIMITS` doesn't name."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ",".join(PARTS)
    parser.add_argument(
        "--parts", default=known, help="which, with commas between; by default all of %(default)s"
    )
    parser.add_argument("--batches", nargs="+", type=int, help="of the small models, by default 1 8 64")
    parser.add_argument("--limit", type=int, help="seconds for each part, instead of each part's own")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring for each row")
    parser.add_argument("--bits", nargs="+", default=BITS, choices=BITS, help="of the compute-bound models")
    parser.add_argument(
        "--account", action="store_true", help="keep the kernels of the compute-bound models' sides too"
    )
    parser.add_argument("--tiny", action="store_true", help="all parts with small models on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {unknown.pop()!r} is none of {known}")
    args.parts = list(dict.fromkeys(parts))
    return args


def prepared(args: argparse.Namespace) -> Bench:
    """The run that the arguments ask for."""
    torch.manual_seed(0)
    if args.tiny:
        place, batches = _models.Place("cpu", torch.float32), tuple(args.batches or (1, 2))
        name, head = "model_tiny", _measure.meta("cpu")
        return Bench(place, True, 0.1, name, head, args.results, batches, tuple(args.bits), args.account)
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import GpuMachine

    gpu.require()
    machine = GpuMachine.here(0)
    head = _measure.meta(machine.gpu, machine=vars(machine))
    place = _models.Place("cuda", torch.bfloat16)
    name, batches = _measure.gpu_name("model", machine.gpu), tuple(args.batches or (1, 8, 64))
    bits, account = tuple(args.bits), args.account
    return Bench(place, False, args.seconds, name, head, args.results, batches, bits, account)


def main(argv: list[str]) -> int:
    args = parse(argv)
    bench = prepared(args)
    failed = False
    for part in args.parts:
        start = time.perf_counter()
        try:
            with torch.no_grad(), limited(args.limit or LIMITS.get(part, LIMIT), part):
                PARTS[part](bench)
        except Exception:  # what the other parts measure is worth having
            failed = True
            traceback.print_exc()
        bench.release()
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    missed = [row for row in bench.rows if not row["met"]]
    print(f"{len(bench.rows)} rows, {len(missed)} miss their target")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
