"""Suppress torch's own reports of failed attempts; the raised error has the relevant part."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sparseflow.support.torch_logs import torch_logs_without


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and torch's logs of this thread, unless TORCH_LOGS is set."""
    thread = threading.get_ident()
    with warnings.catch_warnings(), torch_logs_without(lambda record: record.thread == thread):
        warnings.simplefilter("ignore")
        yield
