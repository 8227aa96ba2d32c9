"""Suppress torch's own reports of failed attempts; the raised error has the relevant part."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and torch's logs of this thread, unless TORCH_LOGS is set."""
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
    """Return torch's handlers; each of its loggers has its own."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    return {handler for name in names for handler in logging.getLogger(name).handlers}


class _HideThread(logging.Filter):
    """Drop the log records of one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread
