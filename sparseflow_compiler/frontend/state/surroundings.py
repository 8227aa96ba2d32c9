"""State outside a model that its code can change: class attributes, globals, memoised results."""

from __future__ import annotations

import functools
import itertools
import random
import types
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sparseflow.frontend.state.changes import same
from sparseflow.frontend.state.clone import Clone
from sparseflow.frontend.state.contents import Content, content, refill
from sparseflow.frontend.state.kinds import cell_content, function_cells, is_library, library_of

_CONTAINERS = (list, dict, set, deque)

STREAMS_OF_LIBRARIES = {
    "random.random()": random._inst,  # behind the functions of the module
    "numpy.random": np.random.mtrand._rand,
}
"""Random numbers that a program would draw once, when it is captured; torch's are drawn in each call."""


@dataclass
class Watched:
    """A value that code may change.

    Attributes:
        name: how a user would refer to it.
        value: a class, a function, the globals of a Python module, a container or the variable of a closure.
        keys: the entries to watch; None for all.
        before: its recorded contents.
    """

    name: str
    value: object
    keys: frozenset[str] | None
    before: Content = field(default_factory=dict)

    def now(self) -> Content:
        """Return its current contents."""
        held = content(self.value)
        return held if self.keys is None else {k: held[k] for k in self.keys if k in held}

    def changed(self) -> str | None:
        """Return the name of a changed entry, or None."""
        now = self.now()
        for key in {**self.before, **now}:
            if (key in now) != (key in self.before) or not same(self.before.get(key), now.get(key)):
                return (
                    f"{self.name}.{key}" if isinstance(self.value, (type, types.FunctionType)) else self.name
                )
        return None

    def restore(self) -> None:
        """Restore what changed."""
        if self.keys is None and not isinstance(self.value, (type, types.FunctionType)):
            refill(self.value, self.before)
        else:
            self._restore_entries()

    def _restore_entries(self) -> None:
        now = self.now()
        for key in {**self.before, **now}:
            if key not in self.before:
                delattr(self.value, str(key)) if not isinstance(self.value, dict) else self.value.pop(key)
            elif key not in now or not same(self.before[key], now[key]):
                if isinstance(self.value, dict):
                    self.value[key] = self.before[key]
                else:
                    setattr(self.value, str(key), self.before[key])


class Surroundings:
    """The values outside a model that its code may change.

    Args:
        clone: the copy that is traced.
    """

    def __init__(self, clone: Clone) -> None:
        self._watched: list[Watched] = []
        self._caches: list[functools._lru_cache_wrapper[object]] = []
        self._seen: set[int] = set()
        for kind in {type(module) for module in clone.original.modules()}:
            for base in kind.__mro__:
                self._watch_class(base)
        for function in clone.functions:
            self._watch_function(function)
        self._misses: list[int] = []

    def snapshot(self) -> None:
        """Record the current contents."""
        for watched in self._watched:
            watched.before = watched.now()
        self._misses = [cached.cache_info().misses for cached in self._caches]

    def restore(self) -> list[str]:
        """Restore everything and return the names of what had changed."""
        changed = [(watched, name) for watched in self._watched if (name := watched.changed()) is not None]
        for watched, _ in changed:
            watched.restore()
        for cached, misses in zip(self._caches, self._misses, strict=True):
            if cached.cache_info().misses != misses:
                cached.cache_clear()  # it may hold tensors of the trace
        return [name for _, name in changed]

    def _new(self, value: object) -> bool:
        known = id(value) in self._seen
        self._seen.add(id(value))
        return not known

    def _watch_class(self, kind: type) -> None:
        if not self._new(kind) or kind.__module__.split(".")[0] in ("torch", "builtins"):
            return
        entries = {name: getattr(value, "__func__", value) for name, value in vars(kind).items()}
        if not is_library(kind):
            names = frozenset(name for name in entries if not name.startswith("__"))
            self._watched.append(Watched(kind.__name__, kind, None))
            for name in names:
                self._watch_value(entries[name], f"{kind.__name__}.{name}")
        for value in entries.values():
            self._watch_function(value.fget if isinstance(value, property) else value)

    def _watch_function(self, value: object) -> None:
        if isinstance(value, functools._lru_cache_wrapper):
            if self._new(value):
                self._caches.append(value)
                self._watch_function(value.__wrapped__)
            return
        if not isinstance(value, types.FunctionType) or not self._new(value):
            return
        for name, cell in zip(value.__code__.co_freevars, function_cells(value), strict=True):
            self._watch_cell(cell, f"{name} of {value.__name__}", value)
        if library_of(value) in ("torch", "builtins"):
            return
        names = frozenset(names_of(value.__code__))
        if not is_library(value):
            self._watched.append(Watched(value.__name__, value, None))
            for held in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
                self._watch_value(held, f"a default of {value.__name__}")
            self._watched.append(Watched(f"a global of {value.__module__}", value.__globals__, names))
            self._watch_streams(names, value.__globals__)
        for name in names & value.__globals__.keys():
            found = value.__globals__[name]
            if not is_library(value):
                self._watch_value(found, f"{value.__module__}.{name}")
            self._watch_function(found)

    def _watch_streams(self, names: frozenset[str], found: Mapping[str, object]) -> None:
        """Watch the libraries' random numbers if a function that isn't a library's may draw some."""
        held = [getattr(found.get(name), "__self__", found.get(name)) for name in names]
        sources = (random, np.random, *STREAMS_OF_LIBRARIES.values())
        if "random" in names or any(value is source for value in held for source in sources):
            for name, stream in STREAMS_OF_LIBRARIES.items():
                if self._new(stream):
                    self._watched.append(Watched(name, stream, None))

    def _watch_cell(self, cell: types.CellType, name: str, function: types.FunctionType) -> None:
        found = cell_content(cell)
        if self._new(cell) and not is_library(function) and found is not None:
            self._watched.append(Watched(name, cell, None))
            self._watch_value(found, name)
        self._watch_function(found)

    def _watch_value(self, value: object, name: str) -> None:
        if isinstance(value, _CONTAINERS) and self._new(value):
            self._watched.append(Watched(name, value, None))


@functools.cache
def names_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the global and attribute names in a function's code, nested functions included."""
    inner = (names_of(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return tuple({*code.co_names, *itertools.chain.from_iterable(inner)})
