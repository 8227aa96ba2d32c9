"""Progress bars on stderr, shown only on a terminal by default."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Step(Protocol):
    """Reports progress of one stage: `done` of `total` steps, and the current item."""

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """Report that `done` of `total` steps are finished."""
        ...


class Progress(Protocol):
    """Opens a bar for each stage of a compilation."""

    def stage(self, title: str) -> Step:
        """Start the stage called `title`; the step it returns moves its bar."""
        ...


class _Silent:
    def stage(self, title: str) -> Step:
        return _ignore


def _ignore(done: int, total: int, what: str = "") -> None:
    pass


_WANTED = ContextVar("bars_wanted", default=True)


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no bars within a `with` block, except where somebody asks for them by ``True``."""
    token = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(token)


@contextmanager
def progress_bars(show: bool | None) -> Iterator[Progress]:
    """Show progress within a `with` block.

    Args:
        show: ``True`` or ``False``; ``None``: only when stderr is a terminal, and not within `without_bars`.
    """
    if not (_WANTED.get() and sys.stderr.isatty() if show is None else show):
        yield _Silent()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description:<10}"),
        progress.BarColumn(bar_width=28),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[what]}", style="dim", markup=False),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for each stage; a repeated stage continues its bar."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def stage(self, title: str) -> Step:
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=None, what="")

        def step(done: int, total: int, what: str = "") -> None:
            self._bars.update(self._tasks[title], completed=done, total=total, what=what)

        return step
