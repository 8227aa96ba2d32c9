"""Copy a model and its state, so that a trace leaves the user's model unchanged."""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from torch import nn

from sparseflow.errors import CaptureError
from sparseflow.frontend.state import copy_data, copy_functions
from sparseflow.frontend.state.compiled_parts import compiled_form, own_forward
from sparseflow.frontend.state.contents import refill
from sparseflow.frontend.state.kinds import STREAMS, is_module, is_plain_class, is_shared
from sparseflow.frontend.state.nodes import TABLES, Node, Owner
from sparseflow.runtime.calling.inference import InferenceModule

_T = TypeVar("_T")


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
        self._kept: list[object] = []
        name = _name(self.original)
        self.model = self.copy(self.original, name, Owner(self.original, name))
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

    def copy(self, value: _T, path: str, owner: Owner) -> _T:
        """Return a copy of the same type, or the value itself."""
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
        self.keep(value)
        return handler(self, value, path, owner)

    def copies(self, value: object) -> bool:
        """Return whether values of this kind are copied."""
        return _handler(value) is not None

    def keep(self, value: object) -> None:
        """Keep an object alive, so that its id isn't reused."""
        self._kept.append(value)

    def record(self, original: object, made: object) -> None:
        """Record the copy of a value, for further references to it."""
        self._copies[id(original)] = made

    def recorded(self, original: _T) -> _T | None:
        """Return the copy of a value; None if it was not copied yet."""
        return cast("_T | None", self._copies.get(id(original)))

    def is_node(self, original: object) -> bool:
        """Return whether a value's copy is among the nodes."""
        return id(original) in self._nodes

    def add(self, original: object, made: object, path: str, owner: Owner) -> None:
        """Record the copy of something mutable, and watch it."""
        self.record(original, made)
        node = Node(path, owner, made, {})
        self.nodes.append(node)
        self._nodes[id(original)] = node

    def _module(self, value: nn.Module, path: str, owner: Owner) -> nn.Module:
        made: nn.Module = object.__new__(type(value))
        self.add(value, made, path, Owner(value, path))
        for name, held in vars(value).items():
            here = Owner(value, f"{path}.{name}", name)
            if name == "forward" and (held := self._own_forward(value)) is None:
                continue
            if name == "_modules":
                held = {k: m for k, m in held.items() if not _is_compiled_form(m, value)}
            made.__dict__[name] = self.copy(held, path if name in TABLES else here.path, here)
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


_Handler = Callable[[Clone, Any, str, Owner], object]
_HANDLERS: tuple[tuple[type | tuple[type, ...], _Handler], ...] = (
    (dict, copy_data.copy_dict),
    ((list, deque), copy_data.copy_list),
    (set, copy_data.copy_set),
    (tuple, copy_data.copy_tuple),
    (types.FunctionType, copy_functions.copy_function),
    (types.MethodType, copy_functions.copy_method),
    (functools.partial, copy_functions.copy_partial),
    (types.BuiltinMethodType, copy_functions.copy_builtin_method),
    (weakref.ref, copy_data.copy_weakref),
    (type(functools.cache(id)), copy_functions.copy_cached),
    (STREAMS, copy_data.copy_stream),
)


def _handler(value: object) -> _Handler | None:
    if is_module(value):
        return Clone._module
    for kind, handler in _HANDLERS:
        if isinstance(value, kind):
            return handler
    return copy_data.copy_object if is_plain_class(cast(Hashable, type(value))) else None


def _is_compiled_form(value: object, model: nn.Module) -> bool:
    return isinstance(value, InferenceModule) and value.runs(model)


def _name(model: nn.Module) -> str:
    return type(model).__name__
