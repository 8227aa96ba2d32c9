"""Keeps torch's own reports of a failed attempt off the screen: what matters is in the error raised."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, and what torch logs on this thread, unless TORCH_LOGS asks for it."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "TORCH_LOGS" not in os.environ:
            thread = threading.get_ident()
            for handler in _torch_handlers():
                hide = _HideThread(thread)
                handler.addFilter(hide)
                stack.callback(handler.removeFilter, hide)
        yield


def _torch_handlers() -> set[logging.Handler]:
    """Torch gives each of its loggers a handler of its own."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    return {handler for name in names for handler in logging.getLogger(name).handlers}


class _HideThread(logging.Filter):
    """Drops the records of one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread
