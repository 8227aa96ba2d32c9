"""What arguments of a call are and hold, to tell that a later call passes the same."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from sparseflow.runtime.calling.dict_versions import Unwritten
from sparseflow.runtime.calling.structure import ATOMS
from sparseflow.runtime.calling.tensor_layouts import LAYOUT, TensorLayouts


class UnrepeatableError(Exception):
    """A call that goes the whole way each time."""


@dataclass(frozen=True)
class TensorLayout:
    """What an argument must be: a plain tensor of this layout, which needs no gradient."""

    place: int
    layout: tuple[object, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor, place: int) -> TensorLayout:
        """Return that of a tensor.

        Raises:
            UnrepeatableError: it is of a subclass, sparse, or requires gradients.
        """
        if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.requires_grad:
            raise UnrepeatableError
        return cls(place, LAYOUT(tensor), tensor.stride())

    def fits(self, value: object) -> bool:
        """Return whether a value is such a tensor."""
        return type(value) is Tensor and LAYOUT(value) == self.layout and value.stride() == self.strides


class Contents:
    """What an object holds, and what that holds, compared by identity; tensors also by their memory.

    It is held strongly, except the object itself.

    Args:
        roots: the objects.

    Raises:
        UnrepeatableError: one of them is of a kind that isn't known, or holds such a one.
    """

    def __init__(self, roots: Sequence[object]) -> None:
        self._dicts: list[dict[str, object]] = []
        self._lists: list[list[object] | tuple[object, ...]] = []
        self.tensors: list[Tensor] = []
        self._met: set[int] = set()
        self._roots = {id(root) for root in roots}
        for root in roots:
            self._object(root)
        self._keys = list(chain.from_iterable(self._dicts))
        self._lengths = list(map(len, self._lists))
        self._in_dicts = list(self._values_of_dicts())
        self._in_lists = list(chain.from_iterable(self._lists))
        self._unwritten = Unwritten(self._dicts)
        self._addresses = list(map(Tensor.data_ptr, self.tensors))
        self._layouts = TensorLayouts(self.tensors)

    def are_as_they_were(self) -> bool:
        """Return whether nothing was exchanged, added, removed, moved or given another layout."""
        return (
            self._unwritten.are_right(self._dicts_are_as_they_were)
            and list(map(len, self._lists)) == self._lengths
            and all(map(operator.is_, chain.from_iterable(self._lists), self._in_lists))
            and list(map(Tensor.data_ptr, self.tensors)) == self._addresses
            and self._layouts.are_as_they_were()
        )

    def _dicts_are_as_they_were(self) -> bool:
        same_keys = list(chain.from_iterable(self._dicts)) == self._keys
        return same_keys and all(map(operator.is_, self._values_of_dicts(), self._in_dicts))

    def _values_of_dicts(self) -> Iterator[object]:
        return chain.from_iterable(map(dict.values, self._dicts))

    def _object(self, value: object) -> None:
        if (
            type(value).__hash__ is None
            or not hasattr(value, "__dict__")
            or isinstance(value, torch.nn.Module)
        ):
            raise UnrepeatableError
        self._met.add(id(value))
        self._dicts.append(vars(value))
        for part in vars(value).values():
            self._part(part)

    def _part(self, value: object) -> None:
        kind = type(value)
        if kind in ATOMS:
            return
        if id(value) in self._roots:  # it would keep itself alive
            raise UnrepeatableError
        if id(value) in self._met:
            return
        self._met.add(id(value))
        if isinstance(value, Tensor):
            TensorLayout.of(value, 0)
            self.tensors.append(value)
        elif isinstance(value, (list, tuple)) and kind in (list, tuple, torch.Size):
            self._lists.append(value)
            for part in value:
                self._part(part)
        elif isinstance(value, dict) and kind is dict:
            self._dicts.append(value)
            for part in value.values():
                self._part(part)
        elif callable(value) or isinstance(value, (type, dict, list, tuple, set)):
            raise UnrepeatableError
        else:
            self._object(value)
