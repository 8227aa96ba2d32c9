"""The driver in a process of its own, which may take neither all memory nor all day.

MLIR ends the process where memory runs out, and its parser can be made to ask for any amount; only another
process can then still say what happened, and where.
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
    """What one run may take.

    Attributes:
        seconds: of the processor.
        memory: bytes.
    """

    seconds: int
    memory: int

    @classmethod
    def for_input(cls, size: int) -> Limits:
        """Generous ones for an input of so many bytes; a small one runs in a second and 300 MB."""
        return cls(8 + math.ceil(size / _SIZE_UNIT), (2 << 30) + 2000 * size)


class _Note:
    """What a process is at, kept where its parent can read it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NOTE_BYTES)

    def write(self, text: str) -> None:
        """Say what is done now."""
        data = text.encode(errors="replace")[: _NOTE_BYTES - 1]
        self._memory[: len(data) + 1] = data + b"\0"

    def read(self) -> str:
        """What was said last."""
        return self._memory[:].partition(b"\0")[0].decode(errors="replace")


_note: _Note | None = None


def doing(text: str) -> None:
    """Say what is done now, should it be what takes all memory or time."""
    if _note is not None:
        _note.write(text)


def guarded(main: Callable[[], int], limits: Limits) -> int:
    """Run `main` in a child that is held to limits.

    Returns:
        Its exit code; that of a failure, with an error on stderr, where it did not end by itself.
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
        os._exit(code)  # whatever else is to be done when a process ends is the parent's


def _restrict(what: int, most: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(what)
    kept = hard != resource.RLIM_INFINITY and hard < most
    resource.setrlimit(what, (hard if kept else most, hard))


@contextmanager
def _interrupts_left_to(child: int) -> Iterator[None]:
    """While a child works: Ctrl-C reaches it too, and who ends this process means both."""

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
    """Bytes of an input; stdin is read for it, once for all. Of what can't be read none are known."""
    if path == "-":
        data = sys.stdin.buffer.read()
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), "utf-8")
        return len(data)
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0
