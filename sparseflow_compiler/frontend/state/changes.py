"""Classify what a trace changed in the copy of a model: carried between calls, harmless or refused."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import nn

from sparseflow.errors import CaptureError
from sparseflow.frontend.state.clone import Clone
from sparseflow.frontend.state.kinds import ATOMS, is_shared, library_of
from sparseflow.frontend.state.nodes import TABLES, Node, Owner
from sparseflow.runtime.calling.carried import Place

BACKEND = 'torch.compile(model, backend="sparseflow")'
_ONCE = "if it does so in the first call only, call the model once before compiling it"
_INTERNAL = frozenset(vars(nn.Module()))
_FLAGS_OF_HOOKS = frozenset({"_output_capturing_hooks_installed"})
"""With it transformers marks models that have its hooks, which every trace of a copy installs anew."""

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Change:
    """An entry of something mutable that was added, removed or replaced.

    Attributes:
        node: the owner of the entry.
        key: of the entry.
        old: the old value; None if it was added.
        new: the new value; None if it was removed.
    """

    node: Node
    key: object
    old: object
    new: object

    @property
    def path(self) -> str:
        """The entry's path, as a user would write it."""
        if isinstance(self.node.value, types.CellType):
            return self.node.path
        if not isinstance(self.node.value, (dict, list)) or self.node.owner.name in TABLES:
            return f"{self.node.path}.{self.key}"
        return f"{self.node.path}[{self.key!r}]" if is_shared(self.key) else self.node.path

    @property
    def owner(self) -> Owner:
        """The attribute of a module in which the change is."""
        owner = self.node.owner
        return owner if owner.name else Owner(owner.module, self.path, str(self.key))


def changes(nodes: Iterable[Node]) -> Iterator[Change]:
    """Yield the differences from the last snapshot."""
    for node in nodes:
        before, now = node.before, node.now()
        for key in [*before, *(key for key in now if key not in before)]:
            old, new = before.get(key), now.get(key)
            if (key in before) != (key in now) or not same(old, new):
                yield Change(node, key, old, new)


def same(one: object, other: object) -> bool:
    """Return whether two values are identical or indistinguishable."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return bool(one == other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return (type(one) in ATOMS or isinstance(one, (frozenset, types.MethodType))) and bool(one == other)


def places_of_changes(clone: Clone) -> list[Place]:
    """Return the attributes that forward changed and that a program can take and return.

    Raises:
        CaptureError: it changed something else that the next call may read.
    """
    places: dict[tuple[int, str], Place] = {}
    for change in changes(clone.nodes):
        owner = change.owner
        if _is_harmless(change):
            continue
        if owner.name in TABLES:
            _refuse_tensor(change)
        if owner.name in _INTERNAL - {"training"}:
            _refuse(change.path, "changes this in forward")
        _require_carriable(clone, change)
        key = (id(owner.module), owner.name)
        in_place = change.node.owner.name != "" and key not in places
        places[key] = Place(owner.module, owner.name, owner.path, in_place)
    return list(places.values())


def _is_harmless(change: Change) -> bool:
    name = change.owner.name
    if name == "_non_persistent_buffers_set" or change.key in _FLAGS_OF_HOOKS:
        return True
    if name.startswith("_flat_weight") and isinstance(change.owner.module, nn.RNNBase):
        return True  # it lists the parameters, which torch.export swaps while it traces
    return "_hooks" in name and (library_of(change.new) == "transformers" or type(change.new) is bool)


def _refuse_tensor(change: Change) -> NoReturn:
    kind = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "submodule"}[change.owner.name]
    did = "adds" if change.old is None else "removes" if change.new is None else "replaces"
    _refuse(change.path, f"{did} this {kind} in forward", _ONCE)


def _require_carriable(clone: Clone, change: Change) -> None:
    """Refuse an attribute whose value a call can't pass, or that other attributes share."""
    owner = change.owner
    copies = clone.copy_of(owner.module)
    values = (vars(owner.module).get(owner.name), vars(copies).get(owner.name))
    shared = change.node.owner.name != "" and clone.is_shared_below(owner)
    if shared or not all(_is_carriable(value, set()) for value in values):
        _refuse(change.path, "changes this in forward")


def _is_carriable(value: object, seen: set[int]) -> bool:
    if type(value) in ATOMS or isinstance(value, (torch.Tensor, *_NUMBERS)):
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    if type(value) is list or type(value) is tuple:
        return all(_is_carriable(item, seen) for item in value)
    if type(value) is dict:
        return all(type(k) in ATOMS and _is_carriable(item, seen) for k, item in value.items())
    if callable(value) or isinstance(value, (nn.Module, type, set, list, tuple, dict)):
        return False
    if dataclasses.is_dataclass(value) and not hasattr(value, "__dict__"):
        return all(_is_carriable(getattr(value, f.name), seen) for f in dataclasses.fields(value))
    if type(value).__module__.split(".")[0] in ("numpy", "torch", "builtins"):
        return False
    return hasattr(value, "__dict__") and all(_is_carriable(item, seen) for item in vars(value).values())


def _refuse(path: str, what: str, remedy: str = "") -> NoReturn:
    raise CaptureError(
        path,
        f"the model {what}, which a captured program can't pass on to the next call",
        f"{remedy}; else "
        * bool(remedy)
        + "keep it in a buffer or in a plain attribute of a module (tensors, numbers, lists), "
        f"or use {BACKEND}",
    )
