"""Torch's own logs, hidden for a while."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def torch_logs_without(hidden: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Drop some records of torch's loggers, unless TORCH_LOGS is set: then somebody wants them.

    Args:
        hidden: whether a record is dropped.
    """
    with ExitStack() as stack:
        for handler in _torch_handlers() if "TORCH_LOGS" not in os.environ else ():
            drop = _Drop(hidden)
            handler.addFilter(drop)
            stack.callback(handler.removeFilter, drop)
        yield


def _torch_handlers() -> set[logging.Handler]:
    """Return torch's handlers; each of its loggers has its own."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    return {handler for name in names for handler in logging.getLogger(name).handlers}


class _Drop(logging.Filter):
    def __init__(self, hidden: Callable[[logging.LogRecord], bool]) -> None:
        super().__init__()
        self._hidden = hidden

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._hidden(record)
