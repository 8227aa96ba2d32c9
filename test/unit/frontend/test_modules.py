"""Plain modules: what a model may do with its linear layers, inputs, outputs and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Of(nn.Module):
    """A module around a function of its one linear layer and the inputs."""

    def __init__(self, function, *features, bias=True):
        super().__init__()
        self.linear = nn.Linear(*(features or (8, 6)), bias=bias)
        self.function = function

    def forward(self, x):
        return self.function(self.linear, x)


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


class Named(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shapes", [((8,),), ((2, 8), (5, 8), (1, 8), (0, 8)), ((2, 3, 4, 8), (1, 2, 5, 8))], ids=str
)
def test_linear_takes_inputs_of_any_rank(shapes, bias, round_trip):
    model = Of(lambda linear, x: linear(x), bias=bias).eval()
    round_trip(model, *(((torch.randn(shape),), {}) for shape in shapes))


def test_a_k_that_is_not_divisible_by_four(round_trip):
    model = Of(lambda linear, x: linear(x), 7, 5).eval()
    round_trip(model, ((torch.randn(2, 7),), {}), ((torch.randn(4, 7),), {}))


def test_shared_weights_have_one_name(round_trip):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    built = round_trip(Tied().eval(), *(((torch.randint(0, 10, (n, 3)),), {}) for n in (2, 4)))
    assert list(built.imported.weights) == ["embed.weight"]
    assert str(built.imported.module).count("sparse_gemm.weight") == 1


def test_chained_addmm_and_transposed_products(round_trip):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 6))
            self.v = nn.Parameter(torch.randn(4, 6))
            self.b = nn.Parameter(torch.randn(6))

        def forward(self, x):
            y = torch.addmm(self.b, x, self.w)
            z = torch.addmm(self.b, x, self.w, beta=0.5, alpha=2)
            return torch.mm(y, self.v.t()) + torch.matmul(z, self.v.transpose(0, 1)).relu()

    round_trip(Chain().eval(), *(((torch.randn(n, 8),), {}) for n in (2, 5)))


def test_regions_without_gradients_or_in_another_dtype(round_trip):
    def forward(linear, x):
        with torch.no_grad():
            y = linear(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = linear(x)
        return y, z

    round_trip(Of(forward).eval(), *(((torch.randn(n, 8),), {}) for n in (2, 5)))


@pytest.mark.parametrize(
    "pack",
    [
        lambda a, b: {"b": b, "a": a},
        lambda a, b: (a, (b, [a])),
        lambda a, b: [a, {"x": (b,)}],
        Pair,
        Named,
        lambda a, b: Pair(a, Pair(a, b)),
        lambda a, b: (None, a, 3, "text", True, 2.5, a.shape[0], a.dtype),
        lambda a, b: (a, a, tuple(b.shape), (a.shape[0] * 2, a.shape[0] % 3, a.shape[0] / 2)),
    ],
    ids=["dict", "tuple", "list", "dataclass", "namedtuple", "nested dataclass", "constants", "sizes"],
)
def test_outputs_keep_their_types(pack, round_trip):
    model = Of(lambda linear, x: pack(linear(x), x.sum(-1))).eval()
    round_trip(model, *(((torch.randn(n, 8),), {}) for n in (2, 5)))


def test_an_output_may_be_an_input(round_trip):
    built = round_trip(Of(lambda linear, x: (x, linear(x))).eval(), ((torch.randn(2, 8),), {}))
    x = torch.randn(3, 8)
    assert built.run(x)[0] is x


class Rich(nn.Module):
    """Takes nested inputs, keyword-only ones, constants, and one that it doesn't use."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, batch, pair=None, *, scale=1.0, unused=None, mode="sum"):
        y = self.linear(batch["x"]) * scale
        if pair is not None:
            y = y + (pair.first if mode == "sum" else pair.second)
        return {"y": y, "rest": batch["rest"][0]}


def test_inputs_may_be_nested_and_by_keyword(round_trip):
    def call(n):
        pair = Pair(torch.randn(n, 6), torch.randn(n, 6))
        batch = {"x": torch.randn(n, 8), "rest": [torch.randn(n)]}
        return (batch,), {"pair": pair, "scale": 0.5, "unused": torch.randn(n, n), "mode": "other"}

    built = round_trip(Rich().eval(), call(2), call(4))
    (batch,), kwargs = call(3)
    assert built.captured.accepts((), {"batch": batch, **kwargs}) is None
    assert built.captured.accepts((batch, kwargs.pop("pair")), kwargs) is None
    assert "scale is 0.25, not 0.5" in str(
        built.captured.accepts(*call(3)[:1], {**call(3)[1], "scale": 0.25})
    )


def test_arguments_by_position_only(round_trip):
    class Positional(nn.Module):
        def forward(self, x, /, *rest, **named):
            return sum(rest, x) * named.get("k", 1)

    calls = [
        ((torch.randn(n, 2), torch.randn(n, 2), torch.randn(n, 2)), {"k": torch.randn(n, 2)}) for n in (2, 3)
    ]
    round_trip(Positional().eval(), *calls)


class Counting(nn.Module):
    """Changes buffers, persistent or not, and its input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3), persistent=False)
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        self.count += 1
        self.last.copy_(x[0])
        y = self.linear(x) * self.count
        x.mul_(2)
        return y + self.last


def test_changes_of_buffers_and_inputs_happen_in_place(round_trip):
    model = Counting().eval()
    x = torch.randn(2, 3)
    built = round_trip(model, ((x.clone(),), {}), ((torch.randn(4, 3),), {}))
    count, last = model.count, model.last
    doubled = 2 * x
    before = float(count)
    built.run(x)
    assert model.count is count
    assert float(count) == before + 1
    torch.testing.assert_close(last, doubled[0] / 2)
    torch.testing.assert_close(x, doubled)


def test_non_persistent_buffers_and_constants_are_weights_by_name(round_trip):
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("frequencies", torch.randn(4), persistent=False)

        def forward(self, x):
            return x * self.frequencies + torch.tensor([1.0, 2.0, 3.0, 4.0])

    model = Rotary().eval()
    built = round_trip(model, *(((torch.randn(n, 4),), {}) for n in (2, 3)))
    assert built.imported.weights["frequencies"] is model.frequencies
    assert len(built.imported.weights.constants) == 1


def test_sizes_compute_with_every_operator(round_trip):
    def forward(linear, x):
        n, half = x.shape[0], x.shape[0] // 2
        y = linear(x)[: max(half, 1)]
        return (
            y,
            torch.arange(n * 2 - 1),
            x.new_zeros(n % 3 + 1, half),
            torch.full((n,), n / 2),
            y.sum() * n**2,
        )

    round_trip(Of(forward).eval(), *(((torch.randn(n, 8),), {}) for n in (4, 5, 9)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.full((2, 2), True),
        lambda x: torch.full_like(x, 7, dtype=torch.int32),
        lambda x: torch.where(x > 0, x, -float("inf")),
        lambda x: torch.where(x > 0, True, False),
        lambda x: x.masked_fill(x > 0, float("-inf")).softmax(-1),
        lambda x: x.to(torch.float16).to(torch.complex64) * (2 + 1j),
        lambda x: torch.fft.rfft(x).abs(),
        lambda x: x[..., None, [0, 2], ::2] if x.ndim > 3 else x[:, [0, 2]],
        lambda x: x[:, None, torch.tensor([1, 0])],
        lambda x: torch.stack(x.unbind(1)[:2] + x.split([3, 5], dim=1)[0].chunk(3, 1)[0].unbind(1)),
        lambda x: torch.topk(x, 3, dim=-1),
        lambda x: x.max(dim=1).indices,
        lambda x: x.std(dim=(0, 1), keepdim=True, correction=0),
        lambda x: F.interpolate(x[None], scale_factor=2.0, mode="linear"),
        lambda x: F.pad(x, (1, 2), value=0.5),
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: x.contiguous(memory_format=torch.contiguous_format).clone(
            memory_format=torch.preserve_format
        ),
        lambda x: torch.zeros(3, dtype=torch.bfloat16, device="cpu", layout=torch.strided),
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]), out_int32=True, right=True),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: torch.searchsorted(torch.tensor([0.0, 1.0]), x, side="right"),
        lambda x: torch.linspace(0, x.shape[0] / 2, 5, dtype=torch.float64),
        lambda x: x.view(torch.int32),
        lambda x: torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)[:, :1] + x[:1, :2].to(torch.uint8),
        lambda x: (x.int() & 3) ^ (x > 0).int() | ~x.int(),
        lambda x: torch.cat([x, x[:0]], dim=0).roll(1, 0).flip(1),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tril(torch.ones(x.shape[0], x.shape[0], dtype=torch.bool)),
        lambda x: F.embedding_bag(x.int().abs() % 4, torch.eye(4), mode="sum"),
        lambda x: torch.nan_to_num(x / 0, nan=1.0, posinf=2.0),
    ],
)
def test_unusual_arguments_survive(function, round_trip):
    class Function(nn.Module):
        def forward(self, x):
            return function(x)

    torch.manual_seed(1)
    round_trip(Function().eval(), *(((torch.randn(n, 8),), {}) for n in (3, 5)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), (5, 16)),
        (nn.LSTM(8, 6, 2, batch_first=True), (5, 8)),
        (nn.GRU(8, 6, batch_first=True), (5, 8)),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
            (3, 8, 8),
        ),
        (nn.Sequential(nn.ConvTranspose1d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Hardswish()), (3, 8)),
        (nn.Bilinear(4, 4, 3), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_torch(model, shape, round_trip):
    def call(n):
        return ((torch.randn(n, *shape),) if shape else (torch.randn(n, 4), torch.randn(n, 4))), {}

    round_trip(model.eval(), call(2), call(3))
