"""`sf.compile(prune="magnitude")` makes 2:4 what `sf.prune` does, and nothing else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.pruning.linear_layers import find_layers


def tied_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 16))
    model[2].weight = model[0].weight
    return model


def one_layer_twice() -> nn.Module:
    layer = nn.Linear(32, 32)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(32, 16))


class Tied(nn.Module):
    """An embedding whose table is the head's weight too, and a layer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc, self.out = nn.Embedding(40, 32), nn.Linear(32, 32), nn.Linear(32, 40)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x) + self.table.weight[0])


class Attention(nn.Module):
    def __init__(self, *, cross: bool) -> None:
        super().__init__()
        self.attention, self.fc = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 32)
        self.cross = cross

    def forward(self, x: Tensor) -> Tensor:
        query = x[None]
        other = query.flip(1) if self.cross else query
        return self.fc(self.attention(query, other, other)[0])[0]


class Bare(nn.Module):
    """Parameters that are no layers' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.randn(32, 24))
        self.fc = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(x, self.weight) @ self.other)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(32, 32, 1), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x.T[None])[0].T)


class Read(nn.Module):
    """A layer whose weight is read without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.linear(x, self.fc.weight))


class Other(nn.Module):
    """A layer, and another use of its weight that no sparse kernel serves."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], *, called: bool = True) -> None:
        super().__init__()
        self.fc, self.last, self.use, self.called = nn.Linear(32, 32), nn.Linear(32, 32), use, called

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) if self.called else x
        return self.last(self.use(y, self.fc.weight))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 16)),
    "tied layers": tied_layers,
    "one layer twice": one_layer_twice,
    "tied to an embedding": Tied,
    "self-attention": lambda: Attention(cross=False),
    "cross-attention": lambda: Attention(cross=True),
    "encoder": lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
    "bare parameters": Bare,
    "1x1 convolution": Convolution,
    "read": Read,
    "added": lambda: Other(lambda x, w: x + w[0]),
    "read both ways": lambda: Other(lambda x, w: x @ w),
    "read transposed": lambda: Other(lambda x, w: x @ w, called=False),
    "read in an einsum": lambda: Other(lambda x, w: torch.einsum("mk,nk->mn", x, w), called=False),
    "read in part": lambda: Other(lambda x, w: F.linear(x, w[:16]).repeat(1, 2)),
    "computed from": lambda: Other(lambda x, w: F.linear(x, w / w.norm()), called=False),
    "normed": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)), nn.Linear(32, 16)
    ),
    "bilinear": lambda: nn.Sequential(nn.Linear(32, 32), nn.LSTM(32, 32)),
}


def pruned_by_compile(compiled: Any) -> set[str]:
    return {layer.name for layer in compiled.report.layers if layer.rel_err > 0}


@pytest.mark.parametrize("skip", [(), ("*fc", "0")], ids=["all", "some"])
@pytest.mark.parametrize("name", MODELS)
def test_both_prune_the_same_layers(name: str, skip: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), torch.randn(6, 32)
    names = {layer.name for layer in find_layers(model, ())}
    skip = tuple(pattern for pattern in skip if any(n.endswith(pattern.strip("*")) for n in names))
    expected = copy.deepcopy(model)
    report = sf.prune(expected, skip=skip)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compiled = sf.compile(model, args=(x,), prune="magnitude", policy="sparse", skip=skip)
    pruned = {layer.name for layer in report.layers if layer.method}
    # A weight that no product shows, but something computed from it, has no row; the outputs tell.
    assert pruned_by_compile(compiled) == pruned - ({"fc"} if name == "computed from" else set())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected(x), rtol=1e-4, atol=1e-4)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tied layers", "self-attention", "bare parameters"])
def test_the_backend_of_torch_compile_keeps_to_it_too(name: str) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    model, x = MODELS[name]().eval(), torch.randn(6, 32)
    expected = copy.deepcopy(model)
    pruned = {layer.name for layer in sf.prune(expected).layers if layer.method}
    compiled = torch.compile(model, backend="sparseflow", options={"prune": "magnitude", "policy": "sparse"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected(x), rtol=1e-4, atol=1e-4)
    found = sf.integrations.torch.report(model).layers
    assert {layer.name for layer in found if layer.rel_err > 0} == pruned


@pytest.mark.parametrize("name", zoo.NAMES)
def test_both_prune_the_same_layers_of_a_transformers_model(name: str) -> None:
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name, zoo.fewest(name))
    expected = copy.deepcopy(model)
    pruned = {layer.name for layer in sf.prune(expected).layers if layer.method}
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    with torch.no_grad():
        for args, kwargs in calls:
            compiled(*args, **kwargs)
    found = {layer.name: layer for layer in compiled.report.layers}
    # What no call reaches isn't captured, and layers of fewer than 16 features gain nothing.
    reached = {n for n in pruned if n in found and min(found[n].N, found[n].K) >= 16}
    assert pruned_by_compile(compiled) == reached
    assert reached


def test_the_report_says_why_pruning_leaves_a_weight() -> None:
    x = torch.randn(6, 32)
    for name, layer, reason in (
        ("tied layers", "0", "its weight is shared with 2"),
        (
            "self-attention",
            "attention.in_proj_weight",
            "it is a parameter of MultiheadAttention, not the weight",
        ),
        ("bare parameters", "other", "it is a parameter of Bare, not the weight of an nn.Linear"),
    ):
        compiled = sf.compile(MODELS[name]().eval(), args=(x,), prune="magnitude", policy="sparse")
        found = {row.name: row for row in compiled.report.layers}
        assert found[layer].decision == "dense"
        assert f"pruning leaves it unchanged: {reason}" in found[layer].reason


def test_weights_that_are_tied_after_compiling_are_left_too() -> None:
    model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval(), torch.randn(6, 32)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    model[2].weight = model[0].weight
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        torch.testing.assert_close(compiled(x), model(x))
