"""Detect changes of a model after it was captured."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparseflow.frontend.state.kinds import ATOMS, OF_TORCH, is_module, is_plain_class
from sparseflow.frontend.state.nodes import TABLES
from sparseflow.runtime.calling.dict_versions import Unwritten
from sparseflow.runtime.calling.gradients import TensorGradients
from sparseflow.support.training_mode import differs_in_training

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_PLAIN_LAYERS = (nn.Linear, nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""Torch's modules that are frequent, and whose numbers and flags say nothing that forward reads."""

_MOST = 1000
"""Entries of a container that are compared in every call."""
_VERSION = operator.attrgetter("_version")


class Held:
    """A snapshot of a model's tensors, submodules and hooks, to detect changes.

    Checked in every call, so it looks at as little as it can: the identity of objects, the versions of
    parameters and where their memory is, whether any hook was registered or removed, and numbers,
    flags and texts, or lists, tuples, sets and dicts of them, in attributes of modules and of objects that
    those hold, such as a configuration; among them the training mode of submodules for which it matters.
    What is deeper in lists and dicts, and what is written in place through ``.data``, isn't detected.

    Args:
        model: as it was captured.
        carried: attributes that calls change, as (id of the module, name).
        gradients: whether what its tensors say of their gradients matters.
    """

    def __init__(
        self, model: nn.Module, carried: Collection[tuple[int, str]] = (), *, gradients: bool = False
    ) -> None:
        self._model = model
        modules = list(model.named_modules(remove_duplicate=False))
        tables = [(path, vars(module)[name]) for path, module in modules for name in TABLES]
        entries = [
            (table, key, value, f"{path}.{key}".lstrip("."))
            for path, table in tables
            for key, value in table.items()
        ]
        distinct = {id(table): table for _, table in tables if table}.values()
        self._whole = [table for table in distinct if all(map(_differs_from_all_others, table.values()))]
        self._wholes = list(map(dict, self._whole))
        settings = list(_settings(modules, carried))
        entries += [entry for entry in settings if type(entry[2]) in ATOMS]
        self._containers = [entry for entry in settings if type(entry[2]) not in ATOMS]
        self._container_tables = [entry[0] for entry in self._containers]
        self._container_keys = [entry[1] for entry in self._containers]
        self._contents = [copy.copy(entry[2]) for entry in self._containers]
        self._single = _Grouped(entries, {id(table) for table in self._whole})
        self._tables = [entry[0] for entry in entries]
        self._keys = [entry[1] for entry in entries]
        self._values = [entry[2] for entry in entries]
        self._names = [entry[3] for entry in entries]
        self._unwritten = Unwritten({id(table): table for table in self._tables}.values())
        parameters = {name: p for name, p in model.named_parameters() if not p.is_inference()}
        self._parameters, self._parameter_names = list(parameters.values()), list(parameters)
        self._versions = list(map(_VERSION, self._parameters))
        self._memory = self._where()
        self._asked = [*model.parameters(), *model.buffers()] if gradients else []
        self._gradients = list(map(TensorGradients.of, self._asked))
        self._hooks = [vars(module)[name] for _, module in modules for name in _HOOKS]
        self._hook_counts = list(map(len, self._hooks))
        self._hooked = [table for table in self._hooks if table]
        self._next_hook = RemovableHandle.next_id

    def is_as_it_was(self) -> bool:
        """Return whether nothing was replaced, written or hooked since."""
        return (
            list(map(_VERSION, self._parameters)) == self._versions
            and self._unwritten.are_right(self._has_its_entries)
            and _equal(list(map(dict.get, self._container_tables, self._container_keys)), self._contents)
            and self._where() == self._memory
            and list(map(TensorGradients.of, self._asked)) == self._gradients
            and self._has_its_hooks()
        )

    def what_changed(self) -> str:
        """Return the name of something that changed."""
        for table, key, value, name in zip(self._tables, self._keys, self._values, self._names, strict=True):
            if table.get(key) is not value:
                return name
        for (table, key, _, name), content in zip(self._containers, self._contents, strict=True):
            if not _equal(table.get(key), content):
                return name
        for parameter, version, name in zip(
            self._parameters, self._versions, self._parameter_names, strict=True
        ):
            if parameter._version != version:
                return name
        if list(map(TensorGradients.of, self._asked)) != self._gradients:
            return "what its tensors say of their gradients"
        return "its weights' memory" if self._where() != self._memory else "its hooks"

    def _has_its_entries(self) -> bool:
        """Return whether dicts hold the objects that they held."""
        return _equal(self._whole, self._wholes) and self._single.are_as_they_were()

    def _where(self) -> list[object]:
        """Return the address of every parameter, and the first one's dtype and device."""
        if not self._parameters or self._parameters[0].is_meta:
            return []
        first = self._parameters[0]
        return [first.dtype, first.device, *map(torch.Tensor.data_ptr, self._parameters)]

    def _has_its_hooks(self) -> bool:
        next_hook = RemovableHandle.next_id
        if next_hook == self._next_hook:  # no hook was registered at all
            return all(self._hooked)
        if list(map(len, self._hooks)) != self._hook_counts:
            return False
        self._next_hook = next_hook
        return True


class _Grouped:
    """Entries of dicts, compared by identity, with one look at each dict.

    Args:
        entries: as (dict, key, value, name).
        others: ids of dicts that are compared otherwise.
    """

    def __init__(
        self, entries: Iterable[tuple[dict[str, object], str, object, str]], others: Collection[int]
    ) -> None:
        groups: dict[int, tuple[dict[str, object], dict[str, object]]] = {}
        for table, key, value, _ in entries:
            if id(table) not in others:
                groups.setdefault(id(table), (table, {}))[1][key] = value
        self._tables = [table for table, _ in groups.values()]
        # A key by itself would give its value instead of a tuple.
        keys = [[*known, next(iter(known))] for _, known in groups.values()]
        self._getters = [operator.itemgetter(*some) for some in keys]
        self._values = [
            known[key] for (_, known), some in zip(groups.values(), keys, strict=True) for key in some
        ]

    def are_as_they_were(self) -> bool:
        """Return whether each value is the same object."""
        found = itertools.chain.from_iterable(map(operator.call, self._getters, self._tables))
        try:
            return all(map(operator.is_, found, self._values))
        except KeyError:
            return False


def _differs_from_all_others(value: object) -> bool:
    """Return whether `==` with this value is true for itself alone, and false or an error for others."""
    if isinstance(value, torch.Tensor):
        return type(value) in (torch.Tensor, nn.Parameter) and value.numel() > 1
    return value is None or type(value).__eq__ is object.__eq__


def _settings(
    modules: Iterable[tuple[str, nn.Module]], carried: Collection[tuple[int, str]]
) -> Iterator[tuple[dict[str, object], str, object, str]]:
    """Yield atoms and containers of atoms in attributes of modules and their plain objects, once each."""
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [
        (path, module) for path, module in modules if is_module(module) and type(module) not in _PLAIN_LAYERS
    ]
    while pending:
        path, owner = pending.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for key, value in vars(owner).items():
            if key == "training" and path and isinstance(owner, nn.Module) and differs_in_training(owner):
                yield vars(owner), key, value, f"{path}.{key}"
            if key in OF_TORCH or (id(owner), key) in carried:
                continue
            if type(value) in ATOMS or _holds_atoms(value):
                yield vars(owner), key, value, f"{path}.{key}".lstrip(".")
            elif (
                is_plain_class(cast(Hashable, type(value)))
                and hasattr(value, "__dict__")
                and not is_module(value)
            ):
                pending.append((f"{path}.{key}", value))


def _holds_atoms(value: object) -> bool:
    """Return whether a value is a container of limited size that holds only atoms."""
    if type(value) not in (list, tuple, set, dict):
        return False
    items = cast(Collection[object], value.values() if isinstance(value, dict) else value)
    return len(items) <= _MOST and all(type(item) in ATOMS for item in items)


def _equal(found: object, expected: object) -> bool:
    try:
        return bool(found == expected)
    except (RuntimeError, TypeError, ValueError):  # tensors or arrays have replaced atoms
        return False
