"""Flatten arguments and outputs, caches and objects included, to tensors and a comparable structure.

Containers are left to torch's pytrees. An object unknown to them, and a transformers cache (whose
registered unflattening copies every tensor), is flattened by its attributes, so that it can be rebuilt or
updated in place.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import UserDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.cache_names import is_cache


class Leaf(enum.Enum):
    """Placeholder for a tensor, a counter, or a number that depends on them."""

    LEAF = enum.auto()


class Constant(NamedTuple):
    """A constant of the structure; types are compared too, so that 1 differs from True."""

    kind: type
    value: object


class Container(NamedTuple):
    """A list, tuple, shape, dict or object: its type, its keys or attribute names, and its contents."""

    kind: type
    keys: tuple[object, ...]
    children: tuple[Slot, ...]


class Alias(NamedTuple):
    """A reference to the `ordinal`-th object encountered."""

    ordinal: int


class Repeat(NamedTuple):
    """A repeated tensor: a reference to the `ordinal`-th leaf; in an output, the call's leaves come first.

    Models compare arguments with `is` and write them, so which arguments are the same tensor matters.
    """

    ordinal: int
    kind: type = torch.Tensor  # distinguishes it from an alias, which would be an equal tuple


Slot = Leaf | Constant | Container | Alias | Repeat


@dataclass(frozen=True)
class Structure:
    """Everything about a tree of values except its tensors."""

    spec: pytree.TreeSpec
    slots: tuple[Slot, ...]


@dataclass
class Flat:
    """A flattened tree of values.

    Attributes:
        leaves: its tensors and counters, in order, each tensor once.
        structure: the rest.
        objects: the objects flattened by their attributes, in order of encounter.
    """

    leaves: list[object]
    structure: Structure
    objects: list[object]


COUNTERS: set[tuple[type, str]] = set()
"""Attributes that count from call to call, such as a cache's length: (class, name), learnt on capture."""

_LEAVES = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})
_SEQUENCES = (list, tuple, torch.Size)


@dataclass
class Encoder:
    """Flatten values.

    Attributes:
        leaves: the tensors encountered so far.
        objects: the objects encountered so far; repeated ones become aliases.
        given: leaves that precede these; tensors among them become repeats.
        count: whether counters above 1 are leaves, so that a program can serve any value of them.
    """

    leaves: list[object] = field(default_factory=list)
    objects: list[object] = field(default_factory=list)
    given: Sequence[object] = ()
    count: bool = False

    def __post_init__(self) -> None:
        self._ordinals = {id(value): i for i, value in enumerate(self.objects)}
        self._places = {id(v): i for i, v in enumerate(self.given) if isinstance(v, torch.Tensor)}

    def encode(self, value: object) -> Slot:
        """Append the tensors of `value` to the leaves and return the rest."""
        kind = type(value)
        if isinstance(value, _LEAVES):
            return self._encode_leaf(value)
        if kind in ATOMS:
            return Constant(kind, value)
        if isinstance(value, (list, tuple)) and kind in _SEQUENCES:
            return Container(kind, (), tuple(map(self.encode, value)))
        if isinstance(value, dict) and kind is dict:
            return Container(kind, tuple(value), tuple(map(self.encode, value.values())))
        if isinstance(value, UserDict):  # such as BatchEncoding, whose other contents are no inputs
            return Container(kind, tuple(value.data), tuple(map(self.encode, value.data.values())))
        if isinstance(value, (list, tuple, dict, set)):
            raise ArgumentError(
                f"a value of type {kind.__name__}",
                "only lists, tuples, dicts, objects and containers that torch's pytrees know can be passed",
                "register it with torch.utils._pytree.register_pytree_node",
            )
        return self._encode_object(value) if _is_plain_object(value) else Constant(kind, value)

    def _encode_leaf(self, value: object) -> Slot:
        next_place = len(self.given) + len(self.leaves)
        place = self._places.setdefault(id(value), next_place)
        if place != next_place:
            return Repeat(place)
        self.leaves.append(value)
        return Leaf.LEAF

    def _encode_object(self, value: object) -> Slot:
        ordinal = self._ordinals.get(id(value))
        if ordinal is not None:
            return Alias(ordinal)
        self._ordinals[id(value)] = len(self.objects)
        self.objects.append(value)
        return self.encode_state(value)

    def encode_state(self, value: object) -> Container:
        """Encode an object's attributes, even if it was encountered before."""
        names = attribute_names(value)
        return Container(type(value), names, tuple(self._attribute(value, name) for name in names))

    def _attribute(self, value: object, name: str) -> Slot:
        content = getattr(value, name)
        if self.count and type(content) is int and content > 1 and (type(value), name) in COUNTERS:
            self.leaves.append(content)
            return Leaf.LEAF
        return self.encode(content)

    def flatten(self, tree: object) -> Structure:
        """Encode a whole tree."""
        values, spec = pytree.tree_flatten(tree, is_leaf=_is_ours)
        return Structure(spec, tuple(map(self.encode, values)))


def flatten(tree: object) -> Flat:
    """Flatten the arguments of a call."""
    encoder = Encoder(count=True)
    structure = encoder.flatten(tree)
    return Flat(encoder.leaves, structure, encoder.objects)


class Decoder:
    """Rebuild values; the inverse of Encoder.

    Args:
        leaves: tensors, in the order of encoding.
        objects: objects that aliases refer to.
        given: the leaves that precede these.
    """

    def __init__(
        self, leaves: Iterable[object], objects: Sequence[object] = (), given: Sequence[object] = ()
    ) -> None:
        self._leaves = iter(leaves)
        self._met = list(given)
        self.objects = list(objects)

    def decode(self, slot: Slot) -> object:
        """Build a value."""
        if slot is Leaf.LEAF:
            self._met.append(next(self._leaves))
            return self._met[-1]
        if isinstance(slot, Constant):
            return slot.value
        if isinstance(slot, Repeat):
            return self._met[slot.ordinal]
        if isinstance(slot, Alias):
            return self.objects[slot.ordinal]
        assert isinstance(slot, Container)
        if slot.kind is dict:
            return dict(zip(slot.keys, map(self.decode, slot.children), strict=True))
        if slot.kind in _SEQUENCES:
            children: Iterable[Any] = map(self.decode, slot.children)
            return slot.kind(children)
        if issubclass(slot.kind, UserDict):
            return slot.kind(dict(zip(slot.keys, map(self.decode, slot.children), strict=True)))
        value: object = object.__new__(slot.kind)
        self.objects.append(value)
        self.update(value, slot)
        return value

    def update(self, value: object, state: Container) -> None:
        """Give an object the attributes of `state`, in place."""
        for name, child in zip(state.keys, state.children, strict=True):
            object.__setattr__(value, str(name), self.decode(child))

    def unflatten(self, structure: Structure) -> pytree.PyTree:
        """Build a whole tree."""
        return pytree.tree_unflatten(list(map(self.decode, structure.slots)), structure.spec)


def attribute_names(value: object) -> tuple[str, ...]:
    """Return the attributes that make up the state of an object."""
    if hasattr(value, "__dict__"):
        return tuple(vars(value))
    assert dataclasses.is_dataclass(value), "other objects are constants"
    return tuple(f.name for f in dataclasses.fields(value))


def _is_plain_object(value: object) -> bool:
    if isinstance(value, (type, enum.Enum, torch.nn.Module)) or callable(value):
        return False
    return hasattr(value, "__dict__") or dataclasses.is_dataclass(value)


def _is_ours(value: object) -> bool:
    """Return whether torch's pytrees can't rebuild a type: they turn a torch.Size into a tuple."""
    return type(value) is torch.Size or is_cache(value)
