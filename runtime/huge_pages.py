"""Huge pages under tensors that lie in this process's memory already."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable

from torch import Tensor

SIZE = 2 << 20
"""Bytes of a huge page."""

LEAST = 64 << 10
"""Bytes of a tensor that is worth it."""

COLLAPSE = 25
"""`MADV_COLLAPSE`, of Linux 6.1 and later: what a range holds moves to huge pages, its addresses stay."""


def lay_in_huge_pages(tensors: Iterable[Tensor]) -> int:
    """Ask the system to lay tensors in huge pages; what they hold and where stays the same.

    Reading a weight of a few megabytes is then bound by the memory and no longer by looking up its pages.
    Each range is rounded outwards, as weights lie one after another in memory and few fill a huge page by
    themselves: what lies between them moves as well.

    Args:
        tensors: on the CPU; those in files that were mapped stay as they are.

    Returns:
        The bytes of the ranges that are in huge pages now; 0 where the system has none.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None).madvise
    done = 0
    for begin, end in _ranges(tensors):
        for at in range(begin, end, SIZE):
            if madvise(ctypes.c_void_p(at), ctypes.c_size_t(SIZE), COLLAPSE) == 0:
                done += SIZE
    return done


def _ranges(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Return the ranges of whole huge pages in which the larger tensors lie, ascending and apart."""
    large = [t for t in tensors if t.device.type == "cpu" and t.untyped_storage().nbytes() >= LEAST]
    places = sorted({(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in large})
    found: list[tuple[int, int]] = []
    for start, size in places:
        begin, end = start // SIZE * SIZE, -(-(start + size) // SIZE) * SIZE
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found
