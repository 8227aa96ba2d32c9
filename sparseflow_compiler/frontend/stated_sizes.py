"""Find the tensors of a call whose sizes the objects that hold them state as numbers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sparseflow.runtime.calling.structure import Constant, Container, Flat, Leaf, Slot


def stated(call: Flat) -> frozenset[int]:
    """Return the places of leaves whose sizes, but the first, are all int attributes of their object.

    A static cache is such an object: beside `keys`, `[batch, heads, length, width]`, it has the last three.
    They are constants of the call's structure, so a call with other sizes needs another program anyway, and
    to trace them as symbols costs a third of an export.
    """
    places = iter(range(len(call.leaves)))
    return frozenset(place for slot in call.structure.slots for place in _within(slot, call.leaves, places))


def _within(slot: Slot, leaves: list[object], places: Iterator[int]) -> Iterator[int]:
    """Take the places of a slot's leaves, in their order; yield those that are stated."""
    if slot is Leaf.LEAF:
        next(places)
    if not isinstance(slot, Container):
        return
    numbers = {c.value for c in slot.children if slot.keys and isinstance(c, Constant) and c.kind is int}
    for child in slot.children:
        if child is not Leaf.LEAF:
            yield from _within(child, leaves, places)
            continue
        place = next(places)
        leaf = leaves[place]
        if isinstance(leaf, Tensor) and leaf.dim() > 1 and numbers.issuperset(leaf.shape[1:]):
            yield place
