"""Run the driver in a child process with limits on memory and time.

MLIR aborts the process when memory runs out, and crafted input can make its parser request any amount; so
only a parent process can report what happened, and where.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FAILED = 1
_NOTE_BYTES = 4096
_SIZE_UNIT = 100_000
_OUT_OF_TIME = (signal.SIGXCPU, signal.SIGKILL)
"""What ends a process at its limit of seconds: the first, or the second where that is overlooked."""


@dataclass(frozen=True)
class Limits:
    """The limits of one run.

    Attributes:
        seconds: of processor time.
        memory: bytes.
    """

    seconds: int
    memory: int

    @classmethod
    def for_input(cls, size: int) -> Limits:
        """Return generous limits for an input size in bytes; small inputs take a second and 300 MB."""
        return cls(8 + math.ceil(size / _SIZE_UNIT), (2 << 30) + 2000 * size)


class _Note:
    """A note of a process's current activity, readable by its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NOTE_BYTES)

    def write(self, text: str) -> None:
        """Note the current activity."""
        data = text.encode(errors="replace")[: _NOTE_BYTES - 1]
        self._memory[: len(data) + 1] = data + b"\0"

    def read(self) -> str:
        """Return the last note."""
        return self._memory[:].partition(b"\0")[0].decode(errors="replace")


_note: _Note | None = None


def doing(text: str) -> None:
    """Note the current activity, in case it exhausts memory or time."""
    if _note is not None:
        _note.write(text)


def guarded(main: Callable[[], int], limits: Limits) -> int:
    """Run `main` in a child process with limits.

    Returns:
        Its exit code, or if it was killed, that of a failure with an error on stderr.
    """
    global _note
    if not hasattr(os, "fork"):
        return main()
    _note = _Note()
    child = os.fork()
    if child == 0:
        _run_child(main, limits)
    with _interrupts_left_to(child):
        _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    print(f"sparseflow-opt: error: {_explain(signal.Signals(os.WTERMSIG(status)), limits)}", file=sys.stderr)
    return _FAILED


def _run_child(main: Callable[[], int], limits: Limits) -> None:
    code = _FAILED
    try:
        _restrict(resource.RLIMIT_CORE, 0)
        _restrict(resource.RLIMIT_CPU, limits.seconds)
        _restrict(resource.RLIMIT_DATA, limits.memory)
        code = main()
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        os._exit(code)  # cleanup at exit is left to the parent


def _restrict(what: int, most: int) -> None:
    """Lower a limit, unless it is lower already."""
    _, hard = resource.getrlimit(what)
    kept = hard != resource.RLIM_INFINITY and hard < most
    resource.setrlimit(what, (hard if kept else most, hard))


@contextmanager
def _interrupts_left_to(child: int) -> Iterator[None]:
    """Leave Ctrl-C to the child while it runs, and terminate it along with this process."""

    def end(number: int, _: object) -> None:
        os.kill(child, number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(ended_by: signal.Signals, limits: Limits) -> str:
    at = _note.read() if _note is not None else ""
    if ended_by in _OUT_OF_TIME:
        rule = f"took more than {limits.seconds} s of the processor"
    elif ended_by is signal.SIGABRT:
        rule = f"MLIR gave up, most likely as it needed more than {limits.memory / 2**30:.0f} GB"
    else:
        rule = f"the process ended with {ended_by.name}"
    remedy = "The limits grow with the input's size; --no-limits runs without them."
    return f"{at or 'the command line'}: {rule}\n  → {remedy}"


def input_size(path: str) -> int:
    """Return an input's size in bytes, buffering stdin; 0 if it can't be read."""
    if path == "-":
        data = sys.stdin.buffer.read()
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), "utf-8")
        return len(data)
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0
