"""Copy objects, containers, streams and weak references, and record the copies in their `Clone`."""

from __future__ import annotations

import copy
import types
import weakref
from collections import deque
from typing import TYPE_CHECKING

from sparseflow.frontend.state.kinds import attributes, is_module, is_shared
from sparseflow.frontend.state.nodes import TABLES, Owner

if TYPE_CHECKING:
    from sparseflow.frontend.state.clone import Clone


def copy_object(clone: Clone, value: object, path: str, owner: Owner) -> object:
    """Copy a plain object, attribute by attribute."""
    made = types.SimpleNamespace() if type(value) is types.SimpleNamespace else object.__new__(type(value))
    clone.add(value, made, path, owner)
    for name, held in attributes(value).items():
        object.__setattr__(made, name, clone.copy(held, f"{path}.{name}", owner))
    return made


def copy_dict(clone: Clone, value: dict[object, object], path: str, owner: Owner) -> object:
    """Copy a dict; modules among its keys are copied too."""
    made = copy.copy(value)
    clone.add(value, made, path, owner)
    for key, held in value.items():
        entry = clone.copy(held, _entry(path, key, owner), owner)
        if is_module(key):
            dict.pop(made, key)
            key = clone.copy(key, path, owner)
        dict.__setitem__(made, key, entry)
    return made


def copy_list(clone: Clone, value: list[object] | deque[object], path: str, owner: Owner) -> object:
    """Copy a list or deque."""
    made = copy.copy(value)
    clone.add(value, made, path, owner)
    for i, held in enumerate(value):
        made[i] = clone.copy(held, f"{path}[{i}]", owner)
    return made


def copy_set(clone: Clone, value: set[object], path: str, owner: Owner) -> object:
    """Copy a set; of its items only modules are copied."""
    made = copy.copy(value)
    clone.add(value, made, path, owner)
    if any(is_module(held) for held in value):
        made.clear()
        made.update(clone.copy(held, path, owner) if is_module(held) else held for held in value)
    return made


def copy_tuple(clone: Clone, value: tuple[object, ...], path: str, owner: Owner) -> object:
    """Copy a tuple if one of its items is copied."""
    copies = [clone.copy(held, f"{path}[{i}]", owner) for i, held in enumerate(value)]
    if all(a is b for a, b in zip(copies, value, strict=True)):
        return value
    make = getattr(type(value), "_make", type(value))
    made = make(copies)
    clone.record(value, made)
    return made


def copy_stream(clone: Clone, value: object, path: str, owner: Owner) -> object:
    """Copy a random generator or a mutable byte buffer."""
    made = copy.deepcopy(value)
    clone.add(value, made, path, owner)
    return made


def copy_weakref(clone: Clone, value: weakref.ref[object], path: str, owner: Owner) -> object:
    """Return a weak reference to the copy of a module."""
    target = value()
    if not is_module(target):
        return value
    made = clone.copy(target, path, owner)
    clone.keep(made)
    return weakref.ref(made)


def _entry(path: str, key: object, owner: Owner) -> str:
    if owner.name in TABLES:
        return f"{path}.{key}"
    return f"{path}[{key!r}]" if is_shared(key) else path
