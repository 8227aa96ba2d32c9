"""Versions of dicts, by which a glance tells that none was written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

try:
    # What torch's own guards ask; it has no public name.
    from torch._C._dynamo.guards import dict_version as _version
except ImportError:  # another torch: no version is ever that of an earlier look
    _looks = itertools.count()

    def _version(d: dict[Any, Any]) -> int:
        return next(_looks)


def dict_versions(dicts: Iterable[dict[str, object]]) -> list[int]:
    """Return a version of each dict: an equal one later says that no entry was written or removed meanwhile.

    Unequal ones say nothing: an entry may have been written with the value that it had. What values hold is
    their own matter. Hold the dicts, as a version is that of a dict at a place in memory.
    """
    return list(map(_version, dicts))


class Unwritten:
    """Dicts that were found to be right, and needn't be compared again until one is written.

    Args:
        dicts: they are held.
    """

    def __init__(self, dicts: Iterable[dict[str, object]]) -> None:
        self._dicts = list(dicts)
        self._right: list[int] | None = None

    def are_right(self, compare: Callable[[], bool]) -> bool:
        """Return what `compare` says of the dicts. Without a write since it was true, it isn't asked."""
        versions = dict_versions(self._dicts)  # before: what is written meanwhile shows next time
        if versions == self._right:
            return True
        if not compare():
            return False
        self._right = versions
        return True
