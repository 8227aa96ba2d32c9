"""One capture at a time: torch.export patches torch for the whole process while it traces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._dynamo import assume_constant_result
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
    with COMPILING, _others_are_eager():
        _TRACING.models.append(model)
        try:
            yield
        finally:
            _TRACING.models.pop()


@contextmanager
def _others_are_eager() -> Iterator[None]:
    """Let torch.compiler say in this thread alone that a model is compiled or exported.

    Its flags are the process's: without this, models that other threads run meanwhile would take the
    branches that their authors wrote for traces, such as leaving out checks of values.
    """
    flags = {name: getattr(torch.compiler, name) for name in ("is_compiling", "is_exporting")}
    try:
        for name, flag in flags.items():
            setattr(torch.compiler, name, _in_this_thread(flag, threading.get_ident()))
        yield
    finally:
        for name, flag in flags.items():
            setattr(torch.compiler, name, flag)


def _in_this_thread(flag: Callable[[], bool], thread: int) -> Callable[[], bool]:
    def is_set() -> bool:
        return threading.get_ident() == thread and flag()

    found: Callable[[], bool] = assume_constant_result(is_set)  # type: ignore[no-untyped-call]
    return found
