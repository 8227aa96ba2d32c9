"""How long the stages of a compilation take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparseflow.support.progress import Progress, Step


@dataclass
class Clock:
    """Seconds of each stage, measured and shown."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        """Time a `with` block as part of a stage; its step moves the stage's bar."""
        step = self.progress.stage(name)
        start = time.perf_counter()
        yield step
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        step(1, 1)
