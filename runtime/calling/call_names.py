"""The user's names for parts of a call: `input_ids`, `cache.layers[0].keys`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch.utils import _pytree as pytree

from sparseflow.runtime.calling.structure import (
    Constant,
    Container,
    Flat,
    Leaf,
    Repeat,
    Slot,
    Structure,
)


def leaf_names(call: Flat) -> list[str]:
    """Name the tensors of a call, in order."""
    return [name for name, slot in _named_slots(call.structure) if slot is Leaf.LEAF]


def explain_difference(call: Flat, expected: Structure) -> str:
    """Describe where the structure of a call differs from the expected one."""
    found = dict(_named_slots(call.structure))
    wanted = dict(_named_slots(expected))
    if only := found.keys() - wanted.keys():
        return f"{min(only)} was not there when the program was captured"
    if missing := wanted.keys() - found.keys():
        return f"{min(missing)} is missing"
    for name, slot in found.items():
        if slot != wanted[name]:
            other = wanted[name]
            return f"{name} is {_show(slot, found, other)}, not {_show(other, wanted, slot)}"
    return "the arguments have another structure"


def _show(slot: Slot, slots: Mapping[str, Slot], other: Slot) -> str:
    """Describe a slot so that it is distinguishable from another."""
    if isinstance(slot, Constant):
        return repr(slot.value)
    if isinstance(slot, Repeat):
        leaves = [name for name, other in slots.items() if other is Leaf.LEAF]
        return f"the same tensor as {leaves[slot.ordinal]}"
    if slot is Leaf.LEAF:
        return "a tensor of its own" if isinstance(other, Repeat) else "a tensor"
    return "an object"


def _named_slots(structure: Structure) -> Iterator[tuple[str, Slot]]:
    tree = pytree.tree_unflatten([_Box(slot) for slot in structure.slots], structure.spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    for path, box in paths:
        # The first two keys select from the (positional, keyword) pair, then the argument.
        yield from _within(_argument(path[1]) + pytree.keystr(path[2:]), box.slot)


class _Box:
    """Wrap a slot, itself a tuple, so that it isn't taken for a container."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot


def _argument(key: pytree.KeyEntry) -> str:
    if isinstance(key, pytree.MappingKey):
        return str(key.key)
    assert isinstance(key, pytree.SequenceKey), "arguments are a tuple and a dict"
    return f"args[{key.idx}]"


def _within(name: str, slot: Slot) -> Iterator[tuple[str, Slot]]:
    if not isinstance(slot, Container):
        yield name, slot
        return
    named = slot.kind not in (list, tuple, torch.Size, dict)
    for i, child in enumerate(slot.children):
        key = slot.keys[i] if slot.keys else i
        yield from _within(f"{name}.{key}" if named else f"{name}[{key!r}]", child)
