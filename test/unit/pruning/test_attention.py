"""Layers whose weights other modules read: torch's attention multiplies by out_proj's without calling it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.statistics import watching

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
WIDTH, HEADS = 32, 4


class Plain(nn.Module):
    """`nn.MultiheadAttention` written with `nn.Linear`."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        with torch.no_grad():
            weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
            for layer, weight, bias in zip((self.q, self.k, self.v), weights, biases, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
            self.out_proj.load_state_dict(attention.out_proj.state_dict())

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def pair(blocks: int = 2) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """A model with torch's attention, the same with plain layers, and batches."""
    torch.manual_seed(0)
    model = Stack(blocks).double().eval()
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        block.attention = Plain(block.attention).double().eval()
    return model, plain, [torch.randn(3, 11, WIDTH, dtype=torch.float64) for _ in range(4)]


@pytest.mark.parametrize(
    ("method", "blocks", "options"),
    [
        ("magnitude", 2, {}),
        ("wanda", 1, {}),
        ("wanda", 2, {}),
        ("ria", 2, {}),
        ("sparsegpt", 1, {}),
        ("sparsegpt", 2, {}),
        ("wanda", 2, {"reconstruct": "layer"}),
        ("sparsegpt", 2, {"reconstruct": "attention", "steps": 5}),
    ],
    ids=str,
)
def test_out_proj_is_pruned_like_a_plain_layer(method: Any, blocks: int, options: dict[str, Any]) -> None:
    model, plain, batches = pair(blocks)
    with torch.no_grad():
        torch.testing.assert_close(model(batches[0]), plain(batches[0]))
    found = sf.prune(model, method, batches, **options)
    # The projections of the input stay dense in torch's attention.
    expected = sf.prune(plain, method, batches, skip=("*.q", "*.k", "*.v"), **options)
    assert {layer.name: layer.rows for layer in found.layers if layer.method} == {
        layer.name: layer.rows for layer in expected.layers if layer.method
    }
    assert {layer.method for layer in found.layers} == {method}
    for layer in find_layers(model, ()):
        assert sf.is_24(layer.weight)
        other = plain.get_submodule(layer.name).weight.detach()
        torch.testing.assert_close(layer.weight, other, rtol=1e-6, atol=1e-8, msg=layer.name)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_torchs_encoder_is_pruned_whole_and_its_fast_path_is_back_afterwards(
    padded: bool, fast: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    batch: dict[str, Tensor] = {"src": torch.randn(3, 11, WIDTH)}
    if padded:
        batch["src_key_padding_mask"] = torch.arange(11) >= torch.tensor([[11], [7], [4]])
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(fast)
        report = sf.prune(model, "wanda", [batch] * 2)
        assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert {layer.method for layer in report.layers} == {"wanda"}
    assert {layer.rows for layer in report.layers} == {66}
    assert len(report.layers) == 6


class Reader(nn.Module):
    """Calls one layer, reads the weight of another, and does both with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.both = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(x)
        x = F.linear(x, self.read.weight)
        return self.both(x) + F.linear(2 * x, self.both.weight)


def test_every_product_by_a_layers_weight_is_seen_once() -> None:
    torch.manual_seed(0)
    model, x = Reader().eval(), torch.randn(3, 16)
    seen: dict[str, list[Tensor]] = {"called": [], "read": [], "both": []}
    linear = F.linear
    with torch.no_grad(), watching(find_layers(model, ()), lambda layer, x: seen[layer.name].append(x)):
        model(x)
    assert F.linear is linear
    with torch.no_grad():
        first = model.called(x)
        second = F.linear(first, model.read.weight)
    for name, inputs in {"called": [x], "read": [first], "both": [second, 2 * second]}.items():
        torch.testing.assert_close(seen[name], inputs)


def test_what_was_changed_is_changed_back_when_a_run_fails() -> None:
    model, linear = Reader().eval(), F.linear
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError), watching(find_layers(model, ()), lambda layer, x: None):
        model(torch.randn(3, 15))
    assert F.linear is linear
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
