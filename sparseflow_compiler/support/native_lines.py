"""Lines that native code writes to stderr, past Python."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def hide_native_lines() -> Iterator[None]:
    """Let `native_lines_without` do something in this block: a command may, a library's call may not."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


@contextmanager
def native_lines_without(pattern: str) -> Iterator[None]:
    """Drop the lines of a pattern that are written to stderr meanwhile; others follow when the block is left.

    Outside of `hide_native_lines` nothing is dropped.

    Args:
        pattern: a regular expression of how such lines begin.
    """
    if not _HIDDEN.get():
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            begin = re.compile(pattern.encode())
            os.write(2, b"".join(line for line in file if not begin.match(line)))
