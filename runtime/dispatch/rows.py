"""Checks of a table's rows as read from JSON, because a file may hold anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def require_fields(kind: type, row: object) -> Mapping[str, Any]:
    """Return a row after checking that it has exactly the fields of a dataclass.

    Raises:
        ValueError: it is no mapping, or a field is missing or unknown.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(row, Mapping) or set(row) != set(names):
        raise ValueError(f"a row must have the fields {', '.join(names)}")
    return row


def require_text(name: str, value: object) -> None:
    """Refuse a value that isn't text.

    Raises:
        ValueError: names the field.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")


def require_number(name: str, value: object, *, whole: bool, least: int | None = None) -> None:
    """Refuse a value that isn't a finite number, positive or at least ``least``.

    Raises:
        ValueError: names the field.
    """
    allowed = int if whole else (int, float)
    number = isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (value <= 0 if least is None else value < least):  # type: ignore[operator]
        kind = "integer" if whole else "number"
        wanted = f"a positive {kind}" if least is None else f"{'an' if whole else 'a'} {kind} from {least}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
