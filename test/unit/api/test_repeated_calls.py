"""Calls like earlier ones are served at once, and whatever differs is seen."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, InferenceOnlyError


class Box:
    """A cache of a kind that nobody knows."""

    def __init__(self, rows: int = 3) -> None:
        self.state = torch.zeros(rows, 4)
        self.names, self.scale = ["state"], 2


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.factor = 1.0

    def forward(self, x: torch.Tensor, box: Box | None = None, flag: bool = False) -> dict[str, object]:
        y = self.layer(x) * self.factor
        if box is not None:
            box.state.add_(y)
            y = y + box.state * box.scale
        return {"y": -y if flag else y, "box": box, "parts": (y, [y * 2], None)}


def pair() -> tuple[Model, sf.CompiledModel]:
    torch.manual_seed(0)
    model = Model().eval()
    return model, sf.compile(model, policy="sparse")


def same(model: Model, compiled: sf.CompiledModel, x: torch.Tensor, box: Box | None, **more: object) -> None:
    twin = None
    if box is not None:
        twin = Box()
        vars(twin).update(vars(box) | {"state": box.state.clone()})
    with torch.no_grad():
        expected = model(x, twin, **more)
        found = compiled(x, box, **more)
    assert list(found) == list(expected)
    assert found["box"] is box
    torch.testing.assert_close(found["y"], expected["y"])
    assert type(found["parts"]) is tuple
    torch.testing.assert_close(found["parts"][1], expected["parts"][1])
    if box is not None and twin is not None:
        torch.testing.assert_close(box.state, twin.state)


def known(compiled: sf.CompiledModel) -> int:
    return sum(map(len, compiled._programs.repeated._known.values()))


def test_inputs_and_the_state_of_an_object_are_those_of_each_call() -> None:
    model, compiled = pair()
    box = Box()
    for _ in range(4):
        same(model, compiled, torch.randn(3, 4), box)
    assert known(compiled) == 1
    assert compiled._programs.repeated.find((torch.randn(3, 4), box), {}) is not None
    results = [compiled(torch.randn(3, 4), box)["parts"][1] for _ in range(2)]
    assert results[0] is not results[1], "containers are each call's own"


def test_what_differs_goes_the_whole_way() -> None:
    model, compiled = pair()
    box, x = Box(), torch.randn(3, 4)
    for _ in range(3):
        same(model, compiled, x, box)
    find = compiled._programs.repeated.find
    assert find((x, box), {}) is not None
    others: list[tuple[object, ...]] = [
        (x, Box()), (x, None), (x, box, True), (torch.randn(2, 4), box), (x.double(), box),
        (torch.randn(4, 3).t(), box), (nn.Parameter(x), box), (x.clone().requires_grad_(), box),
        (x.to_sparse(), box), (box.state, box), (box.state[:], box), (x, box, 0),
    ]  # fmt: skip
    assert [find(other, {}) for other in others] == [None] * len(others)
    with torch.autocast("cpu", torch.bfloat16):
        assert find((x, box), {}) is None
    assert find((x,), {"box": box}) is None
    assert find((x, box), {}) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda box: setattr(box, "state", box.state.clone()),
        lambda box: setattr(box, "scale", 5),
        lambda box: setattr(box, "scale", 2.0),
        lambda box: box.state.set_(torch.zeros(3, 4)),
        lambda box: setattr(box.state, "data", torch.ones(3, 4)),
        lambda box: box.state.transpose_(0, 1).transpose_(0, 1).resize_(3, 4).fill_(1),
    ],
)
def test_changes_of_an_object_are_seen(change) -> None:
    model, compiled = pair()
    box = Box()
    for _ in range(3):
        same(model, compiled, torch.randn(3, 4), box)
    change(box)
    for _ in range(3):
        same(model, compiled, torch.randn(3, 4), box)


def test_another_attribute_or_entry_of_an_object_is_seen() -> None:
    model, compiled = pair()
    box, x = Box(), torch.randn(3, 4)
    same(model, compiled, x, box)
    find = compiled._programs.repeated.find
    for change in (
        lambda: box.names.append("more"),
        lambda: vars(box).update(another=1),
        lambda: box.state.requires_grad_(),
    ):
        assert find((x, box), {}) is not None
        change()
        assert find((x, box), {}) is None
        box.state.requires_grad_(False)
        same(model, compiled, x, box)


def test_changes_of_the_model_are_seen() -> None:
    model, compiled = pair()
    x = torch.randn(3, 4)
    for change in (
        lambda: setattr(model, "factor", 3.0),
        lambda: setattr(model.layer, "weight", nn.Parameter(torch.ones(4, 4))),
        lambda: setattr(model, "layer", nn.Linear(4, 4)),
        lambda: setattr(model.layer.bias, "data", torch.ones(4)),
        lambda: model.layer.register_forward_hook(lambda _module, _args, output: output + 1),
    ):
        for _ in range(3):
            same(model, compiled, x, None)
        change()
        for _ in range(3):
            same(model, compiled, x, None)
    with torch.no_grad():
        model.layer.weight.zero_()
    same(model, compiled, x, None)


def test_a_replaced_parameter_of_one_equal_number_is_seen() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    compiled, x = sf.compile(model, policy="sparse"), torch.randn(2, 1)
    with torch.no_grad():
        for _ in range(3):
            compiled(x)
        model[0].weight = nn.Parameter(model[0].weight.clone())
        model[0].weight.fill_(3.0)
        torch.testing.assert_close(compiled(x), model(x))


def test_refusals_stay() -> None:
    _, compiled = pair()
    box, x = Box(), torch.randn(3, 4)
    for _ in range(3):
        compiled(x, box)
    with pytest.raises(ArgumentError, match="overlaps"):
        compiled(box.state[:], box)
    with pytest.raises(InferenceOnlyError, match="requires gradients"):
        compiled(x.clone().requires_grad_(), box)
    compiled._model.train()
    with pytest.raises(InferenceOnlyError, match="training mode"):
        compiled(x, box)


def test_an_object_is_not_kept_alive() -> None:
    _, compiled = pair()
    box, x = Box(), torch.randn(3, 4)
    for _ in range(3):
        compiled(x, box)
    assert known(compiled) == 1
    state = weakref.ref(box.state)
    del box
    gc.collect()
    assert state() is None
    assert known(compiled) == 0


def test_calls_that_always_differ_are_looked_at_ever_more_rarely() -> None:
    model, compiled = pair()
    boxes = [Box() for _ in range(40)]
    for box in boxes:
        same(model, compiled, torch.randn(3, 4), box)
    assert known(compiled) <= 8
    same(model, compiled, torch.randn(3, 4), boxes[0])
