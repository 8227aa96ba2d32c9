"""Decide which Python values are copied for a trace and which are shared with the user's model."""

from __future__ import annotations

import enum
import hashlib
import itertools
import random
import sys
import types
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn

OF_TORCH = frozenset(vars(nn.Module()))
"""The attributes that every module has."""

ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size})
"""Types whose values can't change and are compared by value."""

_SHARED_TYPES = (torch.Tensor, torch.jit.ScriptModule, type, types.ModuleType, enum.Enum)
_COPIED_LIBRARIES = ("argparse", "dataclasses", "types")
_OPAQUE = frozenset({"torch", "numpy", *sys.stdlib_module_names}.difference(_COPIED_LIBRARIES))
_LIBRARIES = _OPAQUE | {"transformers", "sparseflow"}


def is_shared(value: object) -> bool:
    """Return whether a value is never copied: it is immutable, or its state is outside Python."""
    return type(value) in ATOMS or isinstance(value, _SHARED_TYPES)


def is_module(value: object) -> bool:
    """Return whether a value is a module with Python state, not a TorchScript one."""
    return isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule)


@cache
def is_plain_class(kind: type) -> bool:
    """Return whether a class is plain: its objects consist of their attributes alone."""
    if kind.__module__.split(".")[0] in _OPAQUE and kind is not types.SimpleNamespace:
        return False
    try:
        made: object = object.__new__(kind)
    except TypeError:
        return False
    return hasattr(made, "__dict__") or bool(slots(kind))


def slots(kind: type) -> tuple[str, ...]:
    """Return the slots of a class, inherited ones included."""
    found = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for entry in found for name in ((entry,) if isinstance(entry, str) else tuple(entry))]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def attributes(value: object) -> dict[str, object]:
    """Return an object's instance attributes."""
    found = {name: getattr(value, name) for name in slots(type(value)) if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def function_cells(function: types.FunctionType) -> tuple[types.CellType, ...]:
    """Return a function's closure cells."""
    return function.__closure__ or ()


def cell_content(cell: types.CellType) -> object:
    """Return the value of a closure cell; None if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def library_of(function: Callable[..., object] | object) -> str:
    """Return the top-level package that a function or object comes from."""
    return str(getattr(function, "__module__", None) or "").split(".")[0]


def is_library(value: object) -> bool:
    """Return whether a class or function belongs to a library whose caches don't affect results."""
    return library_of(value) in _LIBRARIES


STREAMS = (np.ndarray, np.random.Generator, np.random.RandomState, random.Random, itertools.count, bytearray)
"""Types that are copied as a whole and compared by their digest."""


def digest(value: object) -> str:
    """Return a digest of a value's contents."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype} {hashlib.blake2b(value.tobytes()).hexdigest()}"
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return repr(value.getstate() if isinstance(value, random.Random) else value)
