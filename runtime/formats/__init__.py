"""How a weight is stored: one file a format, found by name. Importing this never imports torch."""

from __future__ import annotations

from sparseflow.runtime.formats.base import WEIGHT_DTYPES, Format, Part
from sparseflow.runtime.formats.registry import find, forget, names, register

__all__ = ["WEIGHT_DTYPES", "Format", "Part", "find", "forget", "names", "register"]
