"""A core kept busy by another process, and this process before those of other sessions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
# Ends by itself when the process that started it is gone: a stray one would disturb all that follows.
_BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy_core(core: int | None = None) -> Iterator[None]:
    """Keep one core, the first of ours by default, busy with a process of our own priority."""
    core = min(os.sched_getaffinity(0)) if core is None else core
    process = subprocess.Popen([sys.executable, "-c", _BUSY, str(core)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def first_of_its_group() -> None:
    """Give this session's group our niceness: Linux weighs sessions, and nice only within one."""
    niceness = os.nice(0)
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(OSError):
        AUTOGROUP.write_text(str(niceness))
