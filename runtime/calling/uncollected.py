"""Hold back Python's collection of garbage."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class _Holders:
    """The blocks of all threads that hold it back now."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    count: ClassVar[int] = 0
    collected: ClassVar[bool] = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block, let Python collect no garbage, in no thread.

    For recordings of CUDA graphs: an old graph among the garbage, destroyed meanwhile, would end them.
    """
    with _Holders.lock:
        if not _Holders.count:
            _Holders.collected = gc.isenabled()
            gc.disable()
        _Holders.count += 1
    try:
        yield
    finally:
        with _Holders.lock:
            _Holders.count -= 1
            if not _Holders.count and _Holders.collected:
                gc.enable()
