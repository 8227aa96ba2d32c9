"""Taking values apart and putting them together again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.structure import COUNTERS, Decoder, Encoder, flatten


@dataclass(slots=True)
class Slotted:
    x: torch.Tensor
    n: int = 3


@dataclass
class Node:
    x: torch.Tensor
    other: Any = None
    names: list[str] = field(default_factory=lambda: ["a"])


class Tally:
    def __init__(self, x):
        self.x = x
        self.total = 5


def rebuild(tree):
    flat = flatten(tree)
    return Decoder(flat.leaves).unflatten(flat.structure)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": 1, "b": (None, [2.0, "c"])},
        (torch.float16, torch.device("cpu"), slice(1, 2), int),
        [],
        {},
        frozenset({1}),
    ],
    ids=str,
)
def test_constants_come_back(tree):
    assert rebuild(tree) == tree


def test_tensors_come_back_as_the_same_objects():
    x = torch.ones(2)
    back = rebuild({"x": x, "node": Node(x), "slots": Slotted(x)})
    assert back["x"] is x
    assert back["node"].x is x
    assert isinstance(back["slots"], Slotted)
    assert back["slots"].n == 3


def test_one_object_twice_comes_back_as_one():
    node = Node(torch.ones(1))
    node.other = node
    back = rebuild([node, node])
    assert back[0] is back[1] is back[0].other


def test_structures_tell_types_of_constants_apart():
    assert flatten([1]).structure != flatten([True]).structure
    assert flatten([1]).structure != flatten([1.0]).structure
    assert flatten([Node(torch.ones(1))]).structure == flatten([Node(torch.zeros(3))]).structure


def test_an_update_keeps_the_object():
    node = Node(torch.ones(1), names=["a", "b"])
    encoder = Encoder()
    state = encoder.encode_state(Node(torch.zeros(2), other=4))
    Decoder(encoder.leaves).update(node, state)
    assert node.x.shape == (2,)
    assert (node.other, node.names) == (4, ["a"])


class Bag(list):
    """A container that neither pytrees nor we know."""


@pytest.mark.parametrize("value", [Bag([torch.ones(1)]), {torch.ones(1)}], ids=["subclass", "set"])
def test_a_container_that_would_hide_tensors_is_refused(value):
    with pytest.raises(ArgumentError, match="register_pytree_node"):
        flatten((value,))


def test_counters_are_leaves_above_one(monkeypatch):
    tally = Tally(torch.ones(1))
    assert flatten(tally).leaves == [tally.x]
    monkeypatch.setattr("sparseflow.runtime.calling.structure.COUNTERS", COUNTERS | {(Tally, "total")})
    assert flatten(tally).leaves == [tally.x, 5]
    tally.total = 1
    assert flatten(tally).leaves == [tally.x]
