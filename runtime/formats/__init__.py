"""Weight formats: how a weight is stored, one file for each, found by name. Never imports torch."""

from __future__ import annotations

from sparseflow.runtime.formats.base import WEIGHT_DTYPES, Format, Part
from sparseflow.runtime.formats.registry import (
    COLUMNS,
    find,
    is_format,
    names,
    register,
    sparse_names,
    unregister,
)

__all__ = [
    "COLUMNS",
    "WEIGHT_DTYPES",
    "Format",
    "Part",
    "find",
    "is_format",
    "names",
    "register",
    "sparse_names",
    "unregister",
]
