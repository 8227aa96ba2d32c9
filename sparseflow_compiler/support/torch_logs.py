"""Torch's own logs, hidden for a while."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_TRACE = "torch.__trace"
"""Records for TORCH_TRACE, which nobody sees. Without that the first one ends them: none may be dropped."""


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
    """Return the handlers of what torch says; each of its loggers has its own."""
    loggers = logging.root.manager.loggerDict
    names = [name for name in loggers if name.split(".")[0] == "torch" and name != _TRACE]
    return {handler for name in names for handler in logging.getLogger(name).handlers}


class _Drop(logging.Filter):
    def __init__(self, hidden: Callable[[logging.LogRecord], bool]) -> None:
        super().__init__()
        self._hidden = hidden

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._hidden(record)
