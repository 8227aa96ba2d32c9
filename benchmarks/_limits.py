"""Parts of a benchmark that stop when their time is up."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class OutOfTime(BaseException):
    """No Exception: torch would wrap it."""


@contextlib.contextmanager
def limited(seconds: int, part: str) -> Iterator[None]:
    """Leave the block when the time is up."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    except OutOfTime:
        print(f"{Path(sys.argv[0]).stem}: {part} stopped after {seconds} s", file=sys.stderr, flush=True)
    finally:
        signal.alarm(0)
