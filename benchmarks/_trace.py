"""Record what rounds of points take, one after the other, for the simulated calibrations of the tests.

nice -n -10 benchmarks/_trace.py --out test/unit/dispatch/data/quiet.json
nice -n -10 benchmarks/_trace.py --out test/unit/dispatch/data/busy.json --busy
nice -n -10 benchmarks/_trace.py --out test/unit/dispatch/data/busy_one_thread.json --busy --threads 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch
from _load import busy_core, first_of_its_group

from sparseflow.runtime.dispatch import MEASURED_M, measure_cpu
from sparseflow.runtime.robust import PATIENT
from sparseflow.runtime.timing import Turns

SHAPES = ((1024, 1024), (768, 3072))

# Of each point, of each pass, of each round, of each side: microseconds.
Trace = dict[str, list[list[list[float]]]]


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--busy", action="store_true", help="beside a process that keeps one core busy")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="one: processor time")
    parser.add_argument("--seconds", type=float, default=0.25, help="of a point in a pass")
    parser.add_argument("--passes", type=int, default=6)
    args = parser.parse_args()
    first_of_its_group()
    torch.set_num_threads(args.threads)
    with busy_core() if args.busy else contextlib.nullcontext():
        points = record(args.passes, args.seconds)
    args.out.write_text(text(points))


def record(passes: int, seconds: float) -> Trace:
    """Pass after pass over all points, so that each has rounds of several moments."""
    points: Trace = {}
    with torch.inference_mode():
        layers = {shape: measure_cpu._Weights.random(*shape, torch.float32, "2:4") for shape in SHAPES}
        for step in range(passes):
            for (n, k), weights in layers.items():
                for m in MEASURED_M:
                    points.setdefault(f"{n}x{k}x{m}", []).append(_block(weights, n, k, m, seconds))
            print(f"pass {step + 1} of {passes}", flush=True)
    return points


def _block(weights: measure_cpu._Weights, n: int, k: int, m: int, seconds: float) -> list[list[float]]:
    x, sparse = torch.randn(m, k), measure_cpu.sparse_ways(n, k, torch.float32, m)
    turns = Turns(weights.sides(x, n, sparse), measure_cpu.stopwatch(torch.get_num_threads()))
    end = time.perf_counter() + seconds
    rounds: list[list[float]] = []
    while len(rounds) < PATIENT or (len(rounds) < 60 and time.perf_counter() < end):
        rounds.append([float(f"{1e6 * time_:.4g}") for time_ in turns(len(rounds))])
    return rounds


def text(points: Trace) -> str:
    """JSON with a block a line; microseconds of dense, unpacked and each sparse way."""
    lines = [
        f" {json.dumps(name)}: [\n"
        + ",\n".join("  " + json.dumps(block, separators=(",", ":")) for block in blocks)
        + "]"
        for name, blocks in points.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
