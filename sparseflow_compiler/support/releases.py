"""Versions of libraries as numbers."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """Return the numbers with which a version begins, such as ``(0, 26)`` for ``0.26rc1``; empty without."""
    digits = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()
