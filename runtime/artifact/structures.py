"""Serialise the structures of calls and outputs as JSON."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch.utils import _pytree as pytree

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.class_lookup import ClassLookup, qualified, standing_record
from sparseflow.runtime.artifact.values import Decoder, encode, require
from sparseflow.runtime.calling.cache_names import known_name
from sparseflow.runtime.calling.structure import Alias, Constant, Container, Leaf, Repeat, Slot, Structure
from sparseflow.support.documents import Document

_PLAIN: dict[str, type] = {"list": list, "tuple": tuple, "Size": torch.Size, "dict": dict}
_BUILTIN: dict[str, type] = {**_PLAIN, "OrderedDict": OrderedDict}
_LEAF = 0


def encode_structure(structure: Structure) -> dict[str, object]:
    """Encode a structure as JSON.

    Raises:
        ArtifactError: it has a constant that is neither number nor text.
    """
    tree = pytree.tree_unflatten([_LEAF] * len(structure.slots), structure.spec)
    return {"tree": _encode_tree(tree), "slots": [encode_slot(slot) for slot in structure.slots]}


def decode_structure(data: Document, values: Decoder, kinds: ClassLookup) -> Structure:
    """Decode a structure; its classes are resolved locally."""
    spec = pytree.tree_structure(_decode_tree(data["tree"], values, kinds))
    slots = tuple(decode_slot(slot, values, kinds) for slot in require(data["slots"], list))
    if spec.num_leaves != len(slots):
        raise ValueError(f"a structure of {spec.num_leaves} leaves has {len(slots)} slots")
    return Structure(spec, slots)


def encode_slot(slot: Slot) -> object:
    """Encode a slot as JSON."""
    if slot is Leaf.LEAF:
        return "leaf"
    if isinstance(slot, Alias):
        return {"alias": slot.ordinal}
    if isinstance(slot, Repeat):
        return {"again": slot.ordinal}
    if isinstance(slot, Constant):
        return {"constant": encode(slot.value)}
    assert isinstance(slot, Container)
    builtin = next((name for name, kind in _PLAIN.items() if slot.kind is kind), None)
    return {
        "kind": builtin or qualified(slot.kind),
        "keys": [encode(key) for key in slot.keys],
        "children": [encode_slot(child) for child in slot.children],
    }


def decode_slot(data: object, values: Decoder, kinds: ClassLookup) -> Slot:
    """Decode a slot."""
    if data == "leaf":
        return Leaf.LEAF
    data = require(data, dict)
    if "alias" in data:
        return Alias(require(data["alias"], int))
    if "again" in data:
        return Repeat(require(data["again"], int))
    if "constant" in data:
        value = values.decode(data["constant"])
        return Constant(type(value), value)
    name = require(data["kind"], str)
    keys = tuple(map(values.decode, data["keys"]))
    children = tuple(decode_slot(child, values, kinds) for child in data["children"])
    if name not in ("list", "tuple", "Size"):
        _require_fields(keys, children, names_only=name != "dict")
    return Container(_PLAIN.get(name) or kinds.plain(name), keys, children)


def classes(structure: Structure) -> Iterator[type]:
    """Yield the classes of the objects in a structure."""
    pending = list(structure.slots)
    while pending:
        slot = pending.pop()
        if isinstance(slot, Container):
            pending += slot.children
            yield slot.kind


def _require_fields(keys: tuple[object, ...], children: tuple[object, ...], names_only: bool) -> None:
    if len(keys) != len(children):
        raise ValueError(f"{len(keys)} keys for {len(children)} values")
    for key in keys if names_only else ():
        if require(key, str).startswith("__"):
            raise ValueError(f"{key!r:.80} isn't an attribute name")


def _encode_tree(tree: object) -> object:
    if tree is _LEAF:
        return _LEAF
    name = next((name for name, kind in _BUILTIN.items() if type(tree) is kind), None)
    if name is not None and isinstance(tree, dict):
        return {name: [[encode(key), _encode_tree(child)] for key, child in tree.items()]}
    if name is not None and isinstance(tree, (list, tuple)):
        return {name: list(map(_encode_tree, tree))}
    fields = getattr(type(tree), "_fields", None)
    if isinstance(tree, tuple) and fields is not None:
        return {
            "namedtuple": list(map(_encode_tree, tree)),
            "class": qualified(type(tree)),
            "fields": list(fields),
        }
    return _encode_registered(tree)


def _encode_registered(tree: object) -> object:
    name = qualified(type(tree))
    children, context = pytree.SUPPORTED_NODES[type(tree)].flatten_fn(tree)
    if not isinstance(context, list) or len(context) != len(children):
        raise ArtifactError(
            name, "a container whose fields have no names can't be part of an artifact", "return a dict"
        )
    return {"record": [[encode(key), _encode_tree(c)] for key, c in zip(context, children, strict=True)]} | {
        "class": name
    }


def _decode_tree(data: object, values: Decoder, kinds: ClassLookup) -> object:
    if type(data) is int:
        return _LEAF
    data = require(data, dict)
    name, content = next(iter(data.items()))
    if name in ("list", "tuple", "namedtuple"):
        children = [_decode_tree(child, values, kinds) for child in content]
        if name == "namedtuple":
            fields = [require(field, str) for field in data["fields"]]
            return kinds.named_tuple(require(data["class"], str), fields)(*children)
        return _BUILTIN[name](children)
    pairs = [(values.decode(key), _decode_tree(child, values, kinds)) for key, child in content]
    if name == "record":
        return _record(require(data["class"], str), pairs, kinds)
    return _BUILTIN[name](pairs)


def _record(name: str, pairs: list[tuple[object, object]], kinds: ClassLookup) -> object:
    kind = kinds.container(name)
    if kind is None:
        return standing_record(name)((require(key, str), value) for key, value in pairs)
    fields = getattr(kind, "__dataclass_fields__", {})
    keys = [known_name(require(key, str), fields) if fields else key for key, _ in pairs]
    return pytree.SUPPORTED_NODES[kind].unflatten_fn([child for _, child in pairs], keys)
