"""A lock that lets one process tune at a time, while others wait for its results."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PAUSE = 0.1  # seconds between two looks at a lock that another process holds


@contextlib.contextmanager
def alone(path: Path, end: float, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of a file; the system releases it when a process dies, so none is ever stale.

    Args:
        path: the file, which is created if missing.
        end: the value of ``time.monotonic()`` at which to stop waiting.
        waiting: called once before waiting.

    Yields:
        True if the lock is held, or if nobody can hold it, as in a folder that can't be written to.
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
