"""transformers without its progress bars and advice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars, and its logs below an error unless TRANSFORMERS_VERBOSITY is set.

    Without transformers there is nothing to suppress.
    """
    try:
        from transformers.utils import logging
    except ImportError:
        yield
        return
    with ExitStack() as stack:
        if logging.is_progress_bar_enabled():
            logging.disable_progress_bar()
            stack.callback(logging.enable_progress_bar)
        if "TRANSFORMERS_VERBOSITY" not in os.environ:
            stack.callback(logging.set_verbosity, logging.get_verbosity())
            logging.set_verbosity_error()
        yield
