"""The formats by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from sparseflow.runtime.formats.base import Format

SHIPPED = {
    "2:4": "sparseflow.runtime.formats.sparse24:Sparse24",
    "4:6": "sparseflow.runtime.formats.sparse46:Sparse46",
    "6:8": "sparseflow.runtime.formats.sparse68:Sparse68",
    "2:4-fp8": "sparseflow.runtime.formats.sparse24_fp8:Sparse24Fp8",
    "fp8": "sparseflow.runtime.formats.dense_fp8:DenseFp8",
    "int8": "sparseflow.runtime.formats.dense_int8:DenseInt8",
}
"""The module and class of each format, by name; imported on first use."""

COLUMNS = {
    "int8": "int8-columns",
    "fp8": "fp8-columns",
}
"""The formats of layers that leave out inputs, by the format that a user names."""

_INTERNAL = {
    "int8-columns": "sparseflow.runtime.formats.columns:Int8Columns",
    "fp8-columns": "sparseflow.runtime.formats.columns:Fp8Columns",
}
"""Formats that the compiler chooses and no user names; `names` leaves them out."""

_known: dict[str, Format] = {}


def names(pattern: str | None = None) -> tuple[str, ...]:
    """Return the names of all known formats, or of those that store weights of a sparsity pattern."""
    known = dict.fromkeys((*SHIPPED, *_known))
    return tuple(name for name in known if name not in _INTERNAL and pattern in (None, find(name).pattern))


def is_format(name: object) -> bool:
    """Return whether `find` knows a name."""
    return name in SHIPPED or name in _INTERNAL or name in _known


def sparse_names() -> tuple[str, ...]:
    """Return the names of the formats that store weights of any sparsity pattern."""
    return tuple(name for name in names() if find(name).pattern != "dense")


def find(name: str) -> Format:
    """Return the format of a name, always the same object.

    Raises:
        ArgumentError: there is no such format.
    """
    if name not in _known:
        if not is_format(name):
            known = ", ".join(f"'{known}'" for known in names())
            raise ArgumentError(
                f"format {name!r:.40}",
                f"the known formats are {known}",
                "register your own format first: sparseflow.runtime.formats.register",
            )
        module, _, kind = (SHIPPED | _INTERNAL)[name].partition(":")
        _known[name] = getattr(importlib.import_module(module), kind)()
    return _known[name]


def register(format: Format) -> None:
    """Register a format under its name, in this process.

    Raises:
        ArgumentError: another format has that name.
    """
    if is_format(format.name) and _known.get(format.name) is not format:
        raise ArgumentError(f"format {format.name!r}", "another format has this name", "give it another name")
    _known[format.name] = format


def unregister(name: str) -> None:
    """Undo `register`."""
    if name not in SHIPPED | _INTERNAL:
        _known.pop(name, None)
