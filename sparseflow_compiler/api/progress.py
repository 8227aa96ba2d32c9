"""Progress bars on stderr, only where somebody looks at them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Step(Protocol):
    """Reports progress of one stage: `done` of `total` steps, and what is being worked on."""

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


@contextmanager
def progress_bars(show: bool | None) -> Iterator[Progress]:
    """Progress for the length of a `with` block.

    Args:
        show: ``True`` or ``False``; ``None``: only when stderr is a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: object) -> None:
        from rich.progress import Progress

        assert isinstance(bars, Progress)
        self._bars = bars

    def stage(self, title: str) -> Step:
        task = self._bars.add_task(title, total=None, what="")

        def step(done: int, total: int, what: str = "") -> None:
            self._bars.update(task, completed=done, total=total, what=what)

        return step
