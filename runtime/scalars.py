"""Arithmetic on sizes: Python functions of ints, floats and bools, and their names in MLIR.

Where the Torch dialect has an integer operator it is used (`torch.aten.add.int`); everything else is
`torch.operator "torch.sym.<name>"`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable

import torch

_OPERATORS = (
    "add sub mul floordiv truediv mod pow neg pos abs eq ne lt le gt ge and_ or_ xor not_ lshift rshift"
)
SCALAR_FUNCTIONS: dict[str, Callable[..., object]] = {
    **{name: getattr(operator, name) for name in _OPERATORS.split()},
    **{
        name: getattr(torch, name)
        for name in ("sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite")
    },
    **{name: getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    "round": round,
    "int": int,
    "float": float,
    "complex": complex,
    "min": min,
    "max": max,
    "sym_sqrt": torch._sym_sqrt,  # type: ignore[attr-defined]
}
"""The functions by their names in MLIR."""

_NAMES: dict[Hashable, str] = {function: name for name, function in SCALAR_FUNCTIONS.items()}

NATIVE_INT_OPERATORS = frozenset({"add", "sub", "mul", "floordiv", "neg", "eq", "ne", "lt", "le", "gt", "ge"})
"""The functions that the Torch dialect has as `torch.aten.<name>.int`."""


def scalar_operator_name(function: object) -> str | None:
    """Return the name in MLIR of a Python function of numbers; None for other objects."""
    return _NAMES.get(function) if isinstance(function, Hashable) else None
