"""Tunes a GPU for a list of layers, prints a line for each point, and resumes where it was stopped.

python -m sparseflow.runtime.tuning --shapes 4096x4096,28672x4096 --dtypes bfloat16,float16 --folder DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sparseflow.errors import SparseFlowError
from sparseflow.runtime.tuning.machine import GpuMachine
from sparseflow.runtime.tuning.supervisor import PATIENCE
from sparseflow.runtime.tuning.sweep import DEFAULT_M, DTYPES
from sparseflow.runtime.tuning.table import TunedTable
from sparseflow.runtime.tuning.tune import Progress, TuneResult, tune

T = TypeVar("T")


def main(args: Sequence[str] | None = None) -> int:
    """Run with command-line arguments; returns the exit status: 0 even where a deadline left something."""
    options = _parser().parse_args(args)
    try:
        table = TunedTable(GpuMachine.here(options.device), options.folder)
        result = tune(
            options.shapes,
            options.dtypes,
            options.ms,
            device=options.device,
            table=table,
            progress=_lines(),
            patience=options.patience,
            force=options.force,
            deadline=options.deadline,
        )
    except SparseFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _summarise(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparseflow.runtime.tuning", description=__doc__)
    add = parser.add_argument
    add("--shapes", type=_list_of(_shape), required=True, help="NxK,NxK,… (out × in features)")
    add("--dtypes", type=_list_of(str), default=list(DTYPES), help=f"of {','.join(DTYPES)} (default: all)")
    add("--ms", type=_list_of(int), default=list(DEFAULT_M), help="rows of x (default: 1 to 16384)")
    add("--folder", type=Path, help="of the table (default: the cache folder)")
    add("--device", type=int, help="index of the CUDA device (default: the current one)")
    add("--deadline", type=float, help="seconds after which no further point is begun")
    add("--patience", type=float, default=PATIENCE, help="seconds of silence before the child is killed")
    add("--force", action="store_true", help="measure also what the table has")
    return parser


def _list_of(read: Callable[[str], T]) -> Callable[[str], list[T]]:
    def read_all(text: str) -> list[T]:
        return [read(part.strip()) for part in text.split(",")]

    read_all.__name__ = f"list of {read.__name__}"  # argparse names it in its errors
    return read_all


def _shape(text: str) -> tuple[int, int]:
    n, _, k = text.partition("x")
    return int(n), int(k)


def _lines() -> Progress:
    """Prints a line for each point when it is there."""
    shown = 0

    def progress(done: int, total: int, text: str) -> None:
        nonlocal shown
        if done > shown:
            shown = done
            print(f"[{done}/{total}] {text}", file=sys.stderr, flush=True)

    return progress


def _summarise(result: TuneResult) -> None:
    def say(text: str) -> None:
        print(text, file=sys.stderr)

    for task, why in result.skipped:
        say(f"skipped {task}: {why}")
    for why in sorted({failure.why for _, failure in result.failed}):
        say(f"{sum(f.why == why for _, f in result.failed)} candidates failed: {why}")
    say(
        f"{len(result.measured)} points measured, {len(result.known)} known, {len(result.skipped)} skipped, "
        f"{len(result.remaining)} remaining"
    )
    print(result.path)


if __name__ == "__main__":
    sys.exit(main())
