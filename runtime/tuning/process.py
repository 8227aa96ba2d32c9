"""A child process that speaks the protocol, as the tuner sees it: it may die, hang or print anything."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from sparseflow.runtime.tuning.protocol import Message, decode

_LINE_LIMIT = 1 << 20  # bytes; a message is far shorter
_GRACE = 10.0  # seconds to exit by itself


class Lost(Exception):  # noqa: N818 - it is always handled within the tuner
    """The child can't be used any more; the message says why."""


class Child:
    """A process started from ``command``, in its own process group.

    Attributes:
        garbage: the number of lines from it that weren't messages.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.garbage = 0
        self._received = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},  # the child must import the same packages
            start_new_session=True,
        )

    def send(self, line: str) -> None:
        """Write a line to it.

        Raises:
            Lost: the child doesn't read any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise Lost(self._why_it_ended()) from None

    def receive(self, patience: float) -> Message:
        """Return the next message; count and drop lines that aren't messages.

        Args:
            patience: seconds to wait for it.

        Raises:
            Lost: the child died, or sent no message in time.
        """
        deadline = time.monotonic() + patience
        while True:
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                if message := decode(line):
                    return message
                self.garbage += 1
            self._read(deadline, patience)

    def _read(self, deadline: float, patience: float) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready and self._process.poll() is None:
            raise Lost(f"hung: no word for {patience:g} s")
        chunk = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
        if not chunk:
            raise Lost(self._why_it_ended())
        self._received += chunk
        if len(self._received) > _LINE_LIMIT and b"\n" not in self._received:
            self._received = b""
            self.garbage += 1

    def _why_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        code = self._process.poll()
        if code is None:
            return "closed its output and went on"
        try:
            how = f"died with signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"died with signal {-code}"
        last = self.last_words(1)
        return f"{how}: {last}" if last else how

    def last_words(self, lines: int) -> str:
        """Return the last lines that it wrote to stderr."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - (1 << 14)))
        text = self._stderr.read().decode(errors="replace")
        return "\n".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])

    def kill(self) -> None:
        """Kill it and all processes that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close its input, so that it exits, and kill it if it doesn't; it can't be used afterwards."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self.kill()
        self._process.stdout.close()
        self._stderr.close()
