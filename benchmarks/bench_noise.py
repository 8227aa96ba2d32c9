"""How often calibrating a layer gives the same policy, on the machine as it is and beside a busy core.

    nice -n -10 python benchmarks/bench_noise.py

Two policies are the same where, at each measured M, they run the same or what is as fast within ``NEAR``, by
the times of all calibrations without the busy core together.
"""

from __future__ import annotations

import argparse
import collections
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _load import busy_core, first_of_its_group
from _measure import RESULTS, cpu_name, meta, write

from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch import (
    MEASURED_M,
    Measurement,
    Policy,
    Table,
    calibrate,
    choose,
    fill_cpu_table,
)
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning
from sparseflow.runtime.kernels import Choice

SHAPES = ((1024, 1024), (768, 3072))
NEAR = 1.05

Shape = tuple[int, int]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    first_of_its_group()
    warnings.simplefilter("ignore", DispatchTableWarning)
    dtype = getattr(torch, args.dtype)
    head = meta(
        cpu_name(),
        nice=os.nice(0),
        threads=torch.get_num_threads(),
        same=f"the same choice at each measured M, or one as fast within {NEAR:g}x",
        remark="other sessions used the cores too, in both rows; `load` has the averages at the start",
    )
    quiet = list(_runs("no", args.runs, dtype))
    with busy_core():
        busy = list(_runs("one", args.runs, dtype))
    rows = [row for shape in SHAPES for row in _rows(shape, {"no": quiet, "one": busy})]
    write("noise_cpu", {**head, "load_at_the_end": os.getloadavg()}, rows, args.results)


class Run:
    """One calibration in a fresh table.

    Attributes:
        seconds: what it took.
        layers: the measured points of each shape.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        fill_cpu_table.forget()
        with tempfile.TemporaryDirectory() as folder:
            table = Table(folder=Path(folder))
            start = time.perf_counter()
            calibrate(SHAPES, dtype, table=table)
            self.seconds = time.perf_counter() - start
            self.layers = {shape: table.layer(dtype_name(dtype), *shape) for shape in SHAPES}


def _runs(name: str, count: int, dtype: torch.dtype) -> Iterator[Run]:
    for number in range(count):
        run = Run(dtype)
        print(f"{name} busy core, {number + 1} of {count}: {run.seconds:.1f} s", flush=True)
        yield run


def _rows(shape: Shape, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    times = _times([run.layers[shape] for run in runs["no"]])
    policies = {name: [choose(run.layers[shape]) for run in group] for name, group in runs.items()}
    usual = _usual(policies["no"], times)
    rows: list[dict[str, Any]] = []
    for name, group in policies.items():
        points = [row for run in runs[name] for row in run.layers[shape]]
        exact = collections.Counter(tuple(map(str, _choices(policy))) for policy in group)
        rows.append(
            {
                "N": shape[0],
                "K": shape[1],
                "busy_cores": name,
                "runs": len(group),
                "same": sum(same(policy, usual, times) for policy in group),
                "same_to_the_letter": max(exact.values()),
                "policy": str(usual),
                "seconds": round(statistics.median(run.seconds for run in runs[name]) / len(SHAPES), 2),
                "points_crowded": round(statistics.fmean(row.crowded for row in points), 3),
                "points_unsettled": round(statistics.fmean(not row.settled for row in points), 3),
                "tries": round(statistics.fmean(row.tries for row in points), 2),
            }
        )
    return rows


def _times(layers: Sequence[Sequence[Measurement]]) -> dict[int, dict[Choice, float]]:
    """What each way took over dense at each M: the median of all calibrations."""
    by_m: dict[int, dict[Choice, list[float]]] = {}
    for rows in layers:
        for row in rows:
            for way in row.ways():
                by_m.setdefault(row.m, {}).setdefault(way, []).append(1 / row.speedup(way))
    return {m: {way: statistics.median(seen) for way, seen in ways.items()} for m, ways in by_m.items()}


def _usual(policies: Sequence[Policy], times: dict[int, dict[Choice, float]]) -> Policy:
    """The policy that most of the others are the same as."""
    return max(policies, key=lambda policy: sum(same(policy, other, times) for other in policies))


def _choices(policy: Policy) -> list[Choice]:
    return [policy.choice(m) for m in MEASURED_M]


def same(one: Policy, other: Policy, times: dict[int, dict[Choice, float]]) -> bool:
    """Whether two policies run the same, or what is as fast, at each measured M."""
    pairs = zip(MEASURED_M, _choices(one), _choices(other), strict=True)
    return all(
        a == b or max(times[m][a], times[m][b]) <= NEAR * min(times[m][a], times[m][b]) for m, a, b in pairs
    )


if __name__ == "__main__":
    main()
