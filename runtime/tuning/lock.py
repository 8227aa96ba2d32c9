"""One tuning at a time on a machine: who needs the same points waits for them instead of measuring too."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PAUSE = 0.1  # seconds between two looks at a lock that another process holds


@contextlib.contextmanager
def alone(path: Path, end: float, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of a file; the system drops it when a process dies, so none is ever stale.

    Args:
        path: of the file, made where it isn't.
        end: what ``time.monotonic()`` is when to wait no longer.
        waiting: called once, before waiting.

    Yields:
        Whether it is held, or can't be had by anyone: a folder that can't be written to has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:
        yield True
        return
    with file:
        yield _take(file.fileno(), end, waiting)


def _take(descriptor: int, end: float, waiting: Callable[[], None]) -> bool:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            return True
        else:
            return True
        if time.monotonic() >= end:
            return False
        if not told:
            waiting()
            told = True
        time.sleep(_PAUSE)
