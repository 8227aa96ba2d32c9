"""Copy a model and its state, so that a trace leaves the user's model unchanged."""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from torch import nn

from sparseflow.errors import CaptureError
from sparseflow.frontend.state.compiled_parts import compiled_form, own_forward
from sparseflow.frontend.state.kinds import (
    STREAMS,
    attributes,
    cell_content,
    digest,
    function_cells,
    is_module,
    is_plain_class,
    is_shared,
)
from sparseflow.runtime.calling.inference import InferenceModule

_T = TypeVar("_T")

Content = dict[object, object]
"""By what was asked: keys of a dict, indices, names of attributes."""

TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, eq=False)
class Owner:
    """The attribute of a model that holds a value.

    Attributes:
        module: of the user's model.
        path: its path, as a user would write it: ``Model.layers.0.memory``; the module's, if it is none.
        name: the attribute; empty for the module itself.
    """

    module: nn.Module
    path: str
    name: str = ""


@dataclass
class Node:
    """A copied mutable value.

    Attributes:
        path: its path, as a user would write it: ``Model.layers.0.memory['last']``.
        owner: the attribute through which it was reached first.
        value: the copy.
        before: what it held.
        shared: whether it was reached through another attribute too.
    """

    path: str
    owner: Owner
    value: object
    before: Content
    shared: bool = False

    def now(self) -> Content:
        """Return its current contents."""
        return content(self.value)


def content(value: object) -> Content:
    """Return the entries of a container or object, by key, index or attribute."""
    if isinstance(value, dict):
        return dict(_own_methods(value).items(value))
    if isinstance(value, (list, deque)):
        return dict(enumerate(value))
    if isinstance(value, set):
        return dict.fromkeys(value, True)
    if isinstance(value, types.CellType):
        return {"": cell_content(value)}
    if isinstance(value, STREAMS):
        return {"": digest(value)}
    held: Content = dict(attributes(value).items())
    return held


def refill(value: object, held: Content) -> None:
    """Restore the contents that `content` returned; streams keep their position."""
    if isinstance(value, dict):
        _own_methods(value).clear(value)
        for key, item in held.items():
            _own_methods(value).__setitem__(value, key, item)
    elif isinstance(value, (list, deque)):
        value.clear()
        value.extend(held.values())
    elif isinstance(value, set):
        value.clear()
        value.update(held)
    elif isinstance(value, types.CellType):
        value.cell_contents = held[""]
    elif not isinstance(value, STREAMS):
        for name in attributes(value).keys() - held.keys():
            object.__delattr__(value, name)
        for key, item in held.items():
            object.__setattr__(value, str(key), item)


def _own_methods(value: dict[object, object]) -> type[dict[object, object]]:
    """Return the built-in class whose methods access the raw contents; a subclass may override them."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def copied(value: object) -> object:
    """Return a deep copy of lists and dicts; anything else is returned itself."""
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) is list:
        return list(map(copied, value))
    return tuple(map(copied, value)) if type(value) is tuple else value


@dataclass
class Clone:
    """A copy of a model.

    Args:
        original: the user's model.

    Attributes:
        nodes: everything mutable that was copied.
        functions: the functions that its modules hold, such as hooks.
    """

    original: nn.Module
    nodes: list[Node] = field(default_factory=list)
    functions: list[types.FunctionType] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._copies: dict[int, object] = {}
        self._nodes: dict[int, Node] = {}
        self._kept: list[object] = []  # keeps objects alive, so that their ids aren't reused
        name = _name(self.original)
        self.model = self._copy(self.original, name, Owner(self.original, name))
        self.snapshot()

    def snapshot(self) -> None:
        """Record the current contents; torch.export may have replaced containers by equal ones."""
        for node in self.nodes:
            if node.owner.name and node.path == node.owner.path:
                now = vars(self.copy_of(node.owner.module)).get(node.owner.name)
                node.value = now if type(now) is type(node.value) else node.value
            node.before = node.now()

    def restore(self) -> None:
        """Restore the contents of the last snapshot."""
        for node in self.nodes:
            refill(node.value, node.before)

    def copy_of(self, module: nn.Module) -> nn.Module:
        """Return the copy of one of the user's modules."""
        return cast(nn.Module, self._copies[id(module)])

    def is_shared_below(self, owner: Owner) -> bool:
        """Return whether anything that an attribute holds is also held elsewhere."""
        return any(
            node.shared and node.owner.module is owner.module and node.owner.name == owner.name
            for node in self.nodes
        )

    def _copy(self, value: _T, path: str, owner: Owner) -> _T:
        """A copy, which is of the kind of what it copies, or the value itself."""
        return cast(_T, self._copy_or_value(value, path, owner))

    def _copy_or_value(self, value: object, path: str, owner: Owner) -> object:
        if isinstance(value, InferenceModule) and not value.runs(self.original):
            value = value.original or value
        if is_shared(value) or isinstance(value, InferenceModule):
            return value
        if id(value) in self._copies:
            if (node := self._nodes.get(id(value))) is not None and (node.owner.module, node.owner.name) != (
                owner.module,
                owner.name,
            ):
                node.shared = True
            return self._copies[id(value)]
        handler = _handler(value)
        if handler is None:
            return value
        self._kept.append(value)
        return handler(self, value, path, owner)

    def _add(self, original: object, made: object, path: str, owner: Owner) -> None:
        self._copies[id(original)] = made
        node = Node(path, owner, made, {})
        self.nodes.append(node)
        self._nodes[id(original)] = node

    def _module(self, value: nn.Module, path: str, owner: Owner) -> nn.Module:
        made: nn.Module = object.__new__(type(value))
        self._add(value, made, path, Owner(value, path))
        for name, held in vars(value).items():
            here = Owner(value, f"{path}.{name}", name)
            if name == "forward" and (held := self._own_forward(value)) is None:
                continue
            if name == "_modules":
                held = {k: m for k, m in held.items() if not _is_compiled_form(m, value)}
            made.__dict__[name] = self._copy(held, path if name in TABLES else here.path, here)
        return made

    def _own_forward(self, value: nn.Module) -> object:
        forward = vars(value)["forward"]
        if compiled_form(forward, value) is not None and (value._forward_hooks or value._forward_pre_hooks):
            raise CaptureError(
                f"{_name(value)}.forward",
                "it is that of the compiled model, and the model has hooks, which would run twice",
                "remove the hooks, or leave forward as it was and call the compiled model",
            )
        return own_forward(value)

    def _object(self, value: object, path: str, owner: Owner) -> object:
        made = (
            types.SimpleNamespace() if type(value) is types.SimpleNamespace else object.__new__(type(value))
        )
        self._add(value, made, path, owner)
        for name, held in attributes(value).items():
            object.__setattr__(made, name, self._copy(held, f"{path}.{name}", owner))
        return made

    def _dict(self, value: dict[object, object], path: str, owner: Owner) -> object:
        made = copy.copy(value)
        self._add(value, made, path, owner)
        for key, held in value.items():
            entry = self._copy(held, _entry(path, key, owner), owner)
            if is_module(key):
                dict.pop(made, key)
                key = self._copy(key, path, owner)
            dict.__setitem__(made, key, entry)
        return made

    def _list(self, value: list[object] | deque[object], path: str, owner: Owner) -> object:
        made = copy.copy(value)
        self._add(value, made, path, owner)
        for i, held in enumerate(value):
            made[i] = self._copy(held, f"{path}[{i}]", owner)
        return made

    def _set(self, value: set[object], path: str, owner: Owner) -> object:
        made = copy.copy(value)
        self._add(value, made, path, owner)
        if any(is_module(held) for held in value):
            made.clear()
            made.update(self._copy(held, path, owner) if is_module(held) else held for held in value)
        return made

    def _tuple(self, value: tuple[object, ...], path: str, owner: Owner) -> object:
        copies = [self._copy(held, f"{path}[{i}]", owner) for i, held in enumerate(value)]
        if all(a is b for a, b in zip(copies, value, strict=True)):
            return value
        make = getattr(type(value), "_make", type(value))
        made = self._copies[id(value)] = make(copies)
        return made

    def _function(self, value: types.FunctionType, path: str, owner: Owner) -> object:
        self.functions.append(value)
        if not _holds_state(value, set()):
            return value
        made = types.FunctionType(
            value.__code__,
            value.__globals__,
            value.__name__,
            value.__defaults__,
            tuple(self._empty_cell(cell) for cell in function_cells(value)),
        )
        self._copies[id(value)] = made
        functools.update_wrapper(made, value)
        del made.__wrapped__  # type: ignore[attr-defined]
        made.__dict__.update(value.__dict__)
        made.__kwdefaults__ = value.__kwdefaults__
        for name, cell in zip(value.__code__.co_freevars, function_cells(value), strict=True):
            self._fill_cell(cell, f"{path} ({value.__name__}'s {name})", owner)
        return made

    def _empty_cell(self, cell: types.CellType) -> types.CellType:
        """Return the copy of a closure cell, still empty; it is filled once the functions exist."""
        self._kept.append(cell)
        return cast(types.CellType, self._copies.setdefault(id(cell), types.CellType()))

    def _fill_cell(self, cell: types.CellType, path: str, owner: Owner) -> None:
        if id(cell) in self._nodes:
            return
        made = cast(types.CellType, self._copies[id(cell)])
        self._add(cell, made, path, owner)
        with contextlib.suppress(ValueError):  # it has no value yet
            made.cell_contents = self._copy(cell.cell_contents, path, owner)

    def _method(self, value: types.MethodType, path: str, owner: Owner) -> object:
        if isinstance(value.__self__, InferenceModule) and value.__name__ in ("forward", "__call__"):
            return self._copy(value.__self__, path, owner)
        function = self._copy(value.__func__, path, owner)
        bound = self._copy(value.__self__, path, owner)
        unchanged = function is value.__func__ and bound is value.__self__
        return value if unchanged else types.MethodType(function, bound)

    def _partial(self, value: functools.partial[object], path: str, owner: Owner) -> object:
        function = self._copy(value.func, path, owner)
        args = [self._copy(arg, path, owner) for arg in value.args]
        named = {name: self._copy(arg, path, owner) for name, arg in value.keywords.items()}
        made = functools.partial(function, *args, **named)
        made.__dict__.update(value.__dict__)
        self._copies[id(value)] = made
        return made

    def _builtin_method(self, value: types.BuiltinMethodType, path: str, owner: Owner) -> object:
        bound = getattr(value, "__self__", None)
        if bound is None or isinstance(bound, types.ModuleType):
            return value
        made = self._copy(bound, path, owner)
        return value if made is bound else getattr(made, value.__name__)

    def _stream(self, value: object, path: str, owner: Owner) -> object:
        """Copy a random generator or a mutable byte buffer."""
        made = copy.deepcopy(value)
        self._add(value, made, path, owner)
        return made

    def _weakref(self, value: weakref.ref[object], path: str, owner: Owner) -> object:
        target = value()
        if not is_module(target):
            return value
        made = self._copy(target, path, owner)
        self._kept.append(made)
        return weakref.ref(made)

    def _cached(self, value: functools._lru_cache_wrapper[object], path: str, owner: Owner) -> object:
        """Copy a memoised function with an empty memo: results of a trace must not be kept."""
        made = functools.lru_cache(**value.cache_parameters())(self._copy(value.__wrapped__, path, owner))
        self._copies[id(value)] = made
        return made


_Handler = Callable[[Clone, Any, str, Owner], object]
_HANDLERS: tuple[tuple[type | tuple[type, ...], _Handler], ...] = (
    (dict, Clone._dict),
    ((list, deque), Clone._list),
    (set, Clone._set),
    (tuple, Clone._tuple),
    (types.FunctionType, Clone._function),
    (types.MethodType, Clone._method),
    (functools.partial, Clone._partial),
    (types.BuiltinMethodType, Clone._builtin_method),
    (weakref.ref, Clone._weakref),
    (type(functools.cache(id)), Clone._cached),
    (STREAMS, Clone._stream),
)


def _handler(value: object) -> _Handler | None:
    if is_module(value):
        return Clone._module
    for kind, handler in _HANDLERS:
        if isinstance(value, kind):
            return handler
    return Clone._object if is_plain_class(cast(Hashable, type(value))) else None


def _is_compiled_form(value: object, model: nn.Module) -> bool:
    return isinstance(value, InferenceModule) and value.runs(model)


def _entry(path: str, key: object, owner: Owner) -> str:
    if owner.name in TABLES:
        return f"{path}.{key}"
    return f"{path}[{key!r}]" if is_shared(key) else path


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _holds_state(value: object, seen: set[int]) -> bool:
    """Return whether a function holds state that a copy of the model needs its own copy of."""
    if id(value) in seen or is_shared(value):
        return False
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        return any(_holds_state(cell_content(cell), seen) for cell in function_cells(value)) or _assigns(
            value.__code__
        )
    return _handler(value) is not None


@functools.cache
def _assigns(code: types.CodeType) -> bool:
    """Return whether a function may assign one of its nonlocal variables."""
    stores = (i for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "DELETE_DEREF"))
    return any(i.argval in code.co_freevars for i in stores)
