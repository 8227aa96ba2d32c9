"""One capture at a time: torch.export patches torch for the whole process while it traces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch._dynamo.convert_frame import compile_lock

COMPILING = compile_lock
"""Held by whoever captures or compiles, whichever model it is; compiled programs run without it.

It is torch.compile's own: one thread's torch.compile would break another one's export too.
"""


class _Tracing(threading.local):
    def __init__(self) -> None:
        self.models: list[nn.Module] = []


_TRACING = _Tracing()


def is_tracing() -> bool:
    """Return whether this thread is in the middle of a capture."""
    return bool(_TRACING.models)


def is_captured(model: nn.Module) -> bool:
    """Return whether this thread is in the middle of a capture of `model`."""
    return any(found is model for found in _TRACING.models)


@contextmanager
def tracing(model: nn.Module) -> Iterator[None]:
    """Hold the lock and record for this thread which model it captures."""
    with COMPILING:
        _TRACING.models.append(model)
        try:
            yield
        finally:
            _TRACING.models.pop()
