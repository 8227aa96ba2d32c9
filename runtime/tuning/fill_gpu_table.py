"""Tuning: filling a GPU's table with the points that a list of layers needs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sparseflow.errors import ArgumentError
from sparseflow.runtime.tuning import quick
from sparseflow.runtime.tuning.gpu_identity import GpuMachine, device_index
from sparseflow.runtime.tuning.gpu_table import TunedTable
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.lock import alone
from sparseflow.runtime.tuning.point import Effort, Failure, TunedPoint
from sparseflow.runtime.tuning.protocol import Request
from sparseflow.runtime.tuning.quick import Plan, breadth_first
from sparseflow.runtime.tuning.supervisor import PATIENCE, STARTUP, Supervisor, child_command
from sparseflow.runtime.tuning.sweep import DEFAULT_M, DTYPES, QUICK_M, refusal
from sparseflow.runtime.tuning.task import Task

Progress = Callable[[int, int, str], None]
"""Called with the points done, the points in all, and what is being measured."""


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """The result of a tuning.

    Attributes:
        measured: the new points, in the order of the shapes.
        known: the points that the table had already.
        skipped: the points that weren't measured, and why: refused by cuSPARSELt, or given up.
        remaining: the points for which no time was left; the same call measures them.
        path: the table's file.
        saved: whether the file has all of ``measured``.
    """

    measured: tuple[TunedPoint, ...]
    known: tuple[TunedPoint, ...]
    skipped: tuple[tuple[Task, str], ...]
    remaining: tuple[Task, ...]
    path: Path
    saved: bool

    def __add__(self, other: TuneResult) -> TuneResult:
        """Return the results of two tunings into one table together."""
        return TuneResult(
            self.measured + other.measured,
            self.known + other.known,
            self.skipped + other.skipped,
            self.remaining + other.remaining,
            other.path,
            self.saved and other.saved,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return counts, the new points, the skipped ones with reasons, and the table, for JSON."""
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
    ms: Iterable[int] | None = None,
    *,
    effort: Effort = "full",
    **how: Any,
) -> TuneResult:
    """Measure the kernels' candidates against the dense product, for the points that the table lacks.

    Candidates run in a child process, so that one that crashes or hangs affects no other. Each point is saved
    as soon as it is measured: calling again resumes an interrupted tuning. Processes that tune into one table
    take turns, and none repeats what another measured.

    Args:
        shapes: the layers' (N, K), the most important first; a shape may repeat.
        dtypes: dtypes of x and W, or torch's names of them: bfloat16, float16, float8_e4m3fn.
        ms: rows of x; by default `DEFAULT_M`, and `QUICK_M` for quick tuning.
        effort: ``"full"`` tries every candidate, and measures again the points of quick tuning; ``"quick"``
            tries the few that the cost model ranks first, in fewer rounds.
        how: options of `measure`.

    Returns:
        The measured, skipped and remaining points.

    Raises:
        ArgumentError: an unknown dtype, an M below 1, or a patience that isn't positive.
        NativeLibraryError: no table was given, and cuSPARSELt can't be used here.
        TuningError: the child can't be kept alive; the points measured until then are saved.
    """
    rows = _rows(ms if ms is not None else DEFAULT_M if effort == "full" else QUICK_M)
    layers = itertools.product(dict.fromkeys((int(n), int(k)) for n, k in shapes), _names(dtypes))
    tasks = [Task(dtype, n, k, m) for (n, k), dtype in layers for m in rows]
    return measure(breadth_first(tasks) if effort == "quick" else tasks, effort=effort, **how)


def measure(
    tasks: Sequence[Task],
    *,
    effort: Effort = "full",
    device: object = None,
    table: TunedTable | None = None,
    progress: Progress | None = None,
    patience: float | None = None,
    force: bool = False,
    deadline: float | None = None,
    command: Sequence[str] | None = None,
    plan: Plan | None = None,
) -> TuneResult:
    """Measure points that the table lacks, as `tune` does.

    Args:
        tasks: the points, in the order in which they are measured, of weights of one pattern.
        effort: as in `tune`.
        device: a CUDA device; the current one by default.
        table: where points are kept; the user's own table of the device by default.
        progress: called with (points done, points in all, text) before and after each measured point; the
            text after it has the point's figures.
        patience: seconds without a message after which the child is killed; starting it may take longer.
        force: measure also the points that the table has.
        deadline: seconds after which no further point is begun, including the wait for other processes.
        command: the command that starts the child; by default the one for the device.
        plan: chooses the candidates of quick tuning; by default from the table, the shipped tables and the
            device's figures.
    """
    end = float("inf") if deadline is None else time.monotonic() + deadline
    if patience is not None and patience <= 0:
        raise ArgumentError("patience", f"must be positive, got {patience}")
    index = None if table is not None and command else device_index(device)
    pattern = tasks[0].pattern if tasks else "2:4"
    table = TunedTable(GpuMachine.here(device), pattern=pattern) if table is None else table
    run = _Run(table, progress, effort=effort, force=force)
    if not run.lacking(tasks):
        return run.result([])
    with alone(run.lock, end, run.wait) as mine:
        run.table.refresh()  # other processes may have measured points meanwhile
        missing = run.lacking(tasks)
        if not mine or not missing:
            return run.result(missing)
        if effort == "quick" and pattern == "2:4":  # of other patterns all candidates are tried
            run.plan = plan or Plan.of(run.table, Hardware.here(index))
        supervisor = _supervisor(command or child_command(index), run.table, patience, effort)
        with supervisor:
            return run.all(supervisor, missing, end)


def _supervisor(
    command: Sequence[str], table: TunedTable, patience: float | None, effort: Effort
) -> Supervisor:
    usual, startup = (quick.PATIENCE, quick.STARTUP) if effort == "quick" else (PATIENCE, STARTUP)
    return Supervisor(
        command, patience=patience or usual, startup=startup, cusparselt=table.machine.cusparselt
    )


class _Run:
    def __init__(self, table: TunedTable, progress: Progress | None, *, effort: Effort, force: bool) -> None:
        self.table, self.effort, self.force = table, effort, force
        self.progress = progress or (lambda done, total, text: None)
        self.plan: Plan | None = None
        self.measured: list[TunedPoint] = []
        self.known: list[TunedPoint] = []
        self.skipped: list[tuple[Task, str]] = []
        self.done = self.total = 0
        self.saved = True

    @property
    def lock(self) -> Path:
        """The file whose lock a process has while it tunes into the table."""
        return self.table.path.with_suffix(".tuning")

    def wait(self) -> None:
        """Say that another process has the lock."""
        self.progress(0, self.total, "another process tunes this GPU: waiting for it")

    def lacking(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks to measure; skip those that can't be, with the reason."""
        refused = {task: why for task in tasks if (why := _refusal(task))}
        had = {task: point for task in tasks if not self.force and (point := self._find(task))}
        self.skipped, self.known = list(refused.items()), list(had.values())
        missing = [task for task in tasks if task not in had and task not in refused]
        self.total = len(missing)
        return missing

    def _find(self, task: Task) -> TunedPoint | None:
        layer = self.table.layer(task.dtype, task.n, task.k)
        good = (point for point in layer if self.effort in ("quick", point.effort))
        return next((point for point in good if point.m == task.m), None)

    def all(self, supervisor: Supervisor, tasks: Sequence[Task], end: float) -> TuneResult:
        """Measure until all is measured or the time is over."""
        for place, task in enumerate(tasks):
            if time.monotonic() >= end:
                return self.result(tasks[place:])
            self.measure(supervisor, task, _then(tasks, place))
        return self.result([])

    def measure(self, supervisor: Supervisor, task: Task, then: int | None) -> None:
        """Measure a point and keep it."""
        self.progress(self.done, self.total, str(task))
        asked = Request(
            task.dtype, task.n, task.k, task.m, then=then, effort=self.effort, pattern=task.pattern
        )
        outcome = supervisor.measure(self.plan.request(task) if self.plan else asked)
        if isinstance(outcome, str):
            self.skipped.append((task, outcome))
            said = f"skipped, {outcome}"
        else:
            self._keep(outcome)
            said = outcome.figures()
        self.done += 1
        self.progress(self.done, self.total, f"{task}: {said}")

    def _keep(self, point: TunedPoint) -> None:
        self.measured.append(point)
        self.table.add([point])
        self.saved = self.table.save()
        if self.plan:
            self.plan.learn(point)

    def result(self, remaining: Sequence[Task]) -> TuneResult:
        return TuneResult(
            tuple(self.measured),
            tuple(self.known),
            tuple(self.skipped),
            tuple(remaining),
            self.table.path,
            self.saved,
        )


def _refusal(task: Task) -> str | None:
    return refusal(task.n, task.k, task.dtype, task.pattern)


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


def _then(tasks: Sequence[Task], place: int) -> int | None:
    """Return the M of the next task if it is of the same layer, else None."""
    for after in tasks[place + 1 : place + 2]:
        if dataclasses.replace(after, m=tasks[place].m) == tasks[place]:
            return after.m
    return None
