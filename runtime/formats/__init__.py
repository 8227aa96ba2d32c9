"""Weight formats: how a weight is stored, one file for each, found by name. Never imports torch."""

from __future__ import annotations

from sparseflow.runtime.formats.base import WEIGHT_DTYPES, Format, Part
from sparseflow.runtime.formats.registry import find, names, register, sparse_names, unregister

__all__ = ["WEIGHT_DTYPES", "Format", "Part", "find", "names", "register", "sparse_names", "unregister"]
