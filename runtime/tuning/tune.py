"""Fills a GPU's table with the points that a list of layers needs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sparseflow.errors import ArgumentError
from sparseflow.runtime.tuning.machine import GpuMachine, device_index
from sparseflow.runtime.tuning.point import Failure, TunedPoint
from sparseflow.runtime.tuning.protocol import Request
from sparseflow.runtime.tuning.supervisor import PATIENCE, Supervisor, child_command
from sparseflow.runtime.tuning.sweep import DEFAULT_M, DTYPES, refusal
from sparseflow.runtime.tuning.table import TunedTable

# Called with the points done, the points in all, and what is being measured.
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, order=True)
class Task:
    """A point to be measured."""

    dtype: str
    n: int
    k: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}×{self.k} {self.dtype}, M={self.m}"


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """The outcome of a tuning.

    Attributes:
        measured: the new points, in the order of the table's shapes.
        known: points that the table had already.
        skipped: what was not measured, and why: refused by cuSPARSELt, or given up.
        remaining: what the deadline left; the same call measures it.
        path: the table's file.
        saved: whether all of ``measured`` is in it.
    """

    measured: tuple[TunedPoint, ...]
    known: tuple[TunedPoint, ...]
    skipped: tuple[tuple[Task, str], ...]
    remaining: tuple[Task, ...]
    path: Path
    saved: bool

    def __add__(self, other: TuneResult) -> TuneResult:
        """Both, of two tunings into one table."""
        return TuneResult(
            self.measured + other.measured,
            self.known + other.known,
            self.skipped + other.skipped,
            self.remaining + other.remaining,
            other.path,
            self.saved and other.saved,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: counts, the new points, what was skipped and why, and the table."""
        return {
            "measured": [point.to_dict() for point in self.measured],
            "known": len(self.known),
            "skipped": [{"point": str(task), "why": why} for task, why in self.skipped],
            "remaining": [str(task) for task in self.remaining],
            "table": str(self.path),
            "saved": self.saved,
        }

    @property
    def failed(self) -> tuple[tuple[TunedPoint, Failure], ...]:
        """The candidates that failed, with their points."""
        return tuple((point, failure) for point in self.measured for failure in point.failed)


def tune(
    shapes: Iterable[tuple[int, int]],
    dtypes: Iterable[object],
    ms: Iterable[int] = DEFAULT_M,
    *,
    device: object = None,
    table: TunedTable | None = None,
    progress: Progress | None = None,
    patience: float = PATIENCE,
    force: bool = False,
    deadline: float | None = None,
    command: Sequence[str] | None = None,
) -> TuneResult:
    """Measure every candidate of every kernel against dense, for what the table lacks.

    Candidates run in a child process, so that one that crashes or hangs costs itself alone. Each point is
    saved when it is there: an interrupted tuning is resumed by calling again.

    Args:
        shapes: the layers' (N, K), in any order, repeats allowed.
        dtypes: of x and W, torch's dtypes or their names: bfloat16, float16, float8_e4m3fn.
        ms: rows of x.
        device: a CUDA device; the current one by default.
        table: where points are kept; the user's own for the device by default.
        progress: called with (points done, points in all, text) before and after each measured point; the
            text after it has its figures.
        patience: seconds that the child may say nothing before it is killed; starting it may take longer.
        force: measure also what the table has.
        deadline: seconds after which no further point is begun.
        command: starts the child; the one for the device by default.

    Returns:
        What was measured, skipped and left.

    Raises:
        ArgumentError: an unknown dtype, an M below 1, or a patience that is not positive.
        NativeLibraryError: no table was given, and cuSPARSELt can't be used here.
        TuningError: the child can't be kept alive; what was measured until then is saved.
    """
    end = float("inf") if deadline is None else time.monotonic() + deadline
    tasks, skipped = _tasks(shapes, _names(dtypes), _rows(ms))
    if patience <= 0:
        raise ArgumentError("patience", f"must be positive, got {patience}")
    if table is None:
        table = TunedTable(GpuMachine.here(device))
    run = _Run(table, progress, skipped, force=force)
    missing = run.lacking(tasks)
    supervisor = Supervisor(
        command or child_command(device_index(device)),
        patience=patience,
        cusparselt=table.machine.cusparselt,
    )
    with supervisor:
        for place, task in enumerate(missing):
            if time.monotonic() >= end:
                return run.result(missing[place:])
            run.measure(supervisor, task, _then(missing, place))
    return run.result([])


class _Run:
    def __init__(
        self,
        table: TunedTable,
        progress: Progress | None,
        skipped: list[tuple[Task, str]],
        *,
        force: bool,
    ) -> None:
        self.table, self.skipped, self.force = table, skipped, force
        self.progress = progress or (lambda done, total, text: None)
        self.measured: list[TunedPoint] = []
        self.known: list[TunedPoint] = []
        self.done = self.total = 0
        self.saved = True

    def lacking(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that must be measured."""
        had = {task: point for task in tasks if not self.force and (point := self._find(task))}
        self.known = list(had.values())
        missing = [task for task in tasks if task not in had]
        self.total = len(missing)
        return missing

    def _find(self, task: Task) -> TunedPoint | None:
        layer = self.table.layer(task.dtype, task.n, task.k)
        return next((point for point in layer if point.m == task.m), None)

    def measure(self, supervisor: Supervisor, task: Task, then: int | None) -> None:
        self.progress(self.done, self.total, str(task))
        outcome = supervisor.measure(Request(task.dtype, task.n, task.k, task.m, then=then))
        if isinstance(outcome, str):
            self.skipped.append((task, outcome))
            said = f"skipped, {outcome}"
        else:
            self.measured.append(outcome)
            self.table.add([outcome])
            self.saved = self.table.save()
            said = outcome.figures()
        self.done += 1
        self.progress(self.done, self.total, f"{task}: {said}")

    def result(self, remaining: Sequence[Task]) -> TuneResult:
        return TuneResult(
            tuple(self.measured),
            tuple(self.known),
            tuple(self.skipped),
            tuple(remaining),
            self.table.path,
            self.saved,
        )


def _names(dtypes: Iterable[object]) -> list[str]:
    names = list(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes))
    for name in names:
        if name not in DTYPES:
            raise ArgumentError("dtypes", f"can't tune {name}", f"known: {', '.join(DTYPES)}")
    return names


def _rows(ms: Iterable[int]) -> list[int]:
    rows = sorted({int(m) for m in ms})
    if rows and rows[0] < 1:
        raise ArgumentError("ms", f"numbers of rows start at 1, got {rows[0]}")
    return rows


def _tasks(
    shapes: Iterable[tuple[int, int]], dtypes: Sequence[str], ms: Sequence[int]
) -> tuple[list[Task], list[tuple[Task, str]]]:
    """Return what can be tuned, the M's of a layer in a row, and what can't, with the reason."""
    wanted = list(dict.fromkeys((int(n), int(k)) for n, k in shapes))
    tasks = [Task(dtype, *shape, m) for dtype, shape, m in itertools.product(dtypes, wanted, ms)]
    refused = [(task, why) for task in tasks if (why := refusal(task.n, task.k, task.dtype))]
    return [task for task in tasks if not refusal(task.n, task.k, task.dtype)], refused


def _then(tasks: Sequence[Task], place: int) -> int | None:
    """The M of the next task, if it is of the same layer."""
    for after in tasks[place + 1 : place + 2]:
        if dataclasses.replace(after, m=tasks[place].m) == tasks[place]:
            return after.m
    return None
