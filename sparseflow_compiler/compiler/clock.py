"""Measure how long the stages of a compilation take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparseflow.support.progress import Progress, Step


@dataclass
class Clock:
    """The seconds of each stage; the current one has a progress bar."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        """Add the time of a `with` block to a stage; yield the step that advances the stage's bar."""
        step = self.progress.stage(name)
        start = time.perf_counter()
        yield step
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        step(1, 1)
