"""The walk of a new format: all of it is in this file, and nothing else knows it.

``toy`` stores the kept values of each row in int8 by a scale of the row's. To ship it, the class would be
``runtime/formats/toy.py`` and its name a line in ``registry.SHIPPED``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, ArtifactError
from sparseflow.integrations.compressed_tensors import to_bitmask
from sparseflow.integrations.torch import to_semi_structured
from sparseflow.nn import SparseLinear
from sparseflow.runtime import PackedWeight, formats, ops
from sparseflow.runtime.formats.two_of_four import TwoOfFour
from sparseflow.runtime.packed import pack

# ---- the format


@dataclass(frozen=True)
class Toy(TwoOfFour):
    """Int8 rows: values in −127 … 127, their places, and a scale in f32 for each row."""

    name: ClassVar[str] = "toy"
    operator: ClassVar[str] = "linear_toy"
    part_names: ClassVar[tuple[str, ...]] = ("values", "positions", "scales")
    lossy: ClassVar[bool] = True

    def value_type(self, dtype):
        return "si8"

    def row_parts(self):
        return (("scales", "f32"),)

    def multiplied(self, dtype):
        return "si8"

    def why_not(self, n, k, dtype, epilogue="none"):
        if epilogue.endswith("_gated"):
            return "it has a gate, which toys don't"
        if k % 8:
            return f"K must be a multiple of 8, got K={k}"
        return super().why_not(n, k, dtype, epilogue)

    def pack(self, weight):
        values, positions = ops.pack_2_4(weight)
        scales = values.float().abs().amax(1).clamp(min=1e-30) / 127
        return (values.float() / scales[:, None]).round().to(torch.int8), positions, scales

    def unpack(self, tensors, in_features):
        return self.dense(tensors, in_features).float() * tensors[2][:, None]


# ---- its operator

LIBRARY = torch.library.Library("sparseflow", "FRAGMENT")
LIBRARY.define(
    "linear_toy(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, Tensor? residual, "
    "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor"
)
ACTIVATIONS = {"none": lambda y: y, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}
CALLS = []


def linear_toy(x, values, positions, scales, bias, residual, in_features, epilogue, policy, dense=None):
    CALLS.append((values.shape[0], epilogue, dense is not None))
    rows = formats.find("toy").dense((values, positions), in_features) if dense is None else dense
    y = x.float() @ (rows.float() * scales[:, None]).T
    y = ACTIVATIONS[epilogue](y if bias is None else y + bias.float())
    return (y if residual is None else y + residual.float()).to(x.dtype)


LIBRARY.impl("linear_toy", linear_toy, "CPU")
torch.library.register_fake(
    "sparseflow::linear_toy", lambda x, values, *_: x.new_empty(*x.shape[:-1], values.shape[0])
)

# ---- everything else finds it


@pytest.fixture(autouse=True)
def toy():
    """The format, known as long as a test runs."""
    stored = Toy()
    formats.register(stored)
    CALLS.clear()
    yield stored
    formats.unregister("toy")


class Model(nn.Module):
    """Merged layers, fused activations and residuals, a gate, and a layer that no toy can be."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(64, 32), nn.Linear(64, 48)
        self.gate, self.up = nn.Linear(64, 96, bias=False), nn.Linear(64, 96, bias=False)
        self.down = nn.Linear(96, 64)
        self.odd = nn.Linear(52, 20)

    def forward(self, x):
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return torch.relu(self.q(x)), self.k(x), self.odd(x[..., :52])


TOYS = ("q", "k", "gate", "up", "down")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


def x_of(*lead):
    return torch.randn(*lead, 64, generator=torch.Generator().manual_seed(1))


def expected_of(model, toy):
    """The eager model with pruned weights, those of toys quantised and dequantised."""
    twin = copy.deepcopy(model)
    for name, layer in twin.named_children():
        layer.weight.data = sf.prune_24(layer.weight)
        if name in TOYS:
            layer.weight.data = toy.unpack(toy.pack(layer.weight.data), layer.in_features)
    return twin


def compiled_of(model, **options):
    options = {"prune": "magnitude", "policy": "sparse", "format": "toy", **options}
    return sf.compile(model, (x_of(5),), **options)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inner", ["eager", "inductor"])
@torch.no_grad()
def test_a_compiled_model_computes_what_the_dequantised_one_does(model, toy, inner):
    compiled, twin = compiled_of(model, inner=inner), expected_of(model, toy)
    for lead in ((5,), (1,), (2, 3)):
        assert_same(compiled(x_of(*lead)), twin(x_of(*lead)))
    assert {n for n, _, _ in CALLS} == {80, 192, 64}, "q with k, gate with up, down; odd is 2:4"


def test_the_passes_write_the_format_down_and_why_a_layer_cannot_have_it(model):
    compiled = compiled_of(model)
    middle, runtime = compiled.mlir("sparse_gemm"), compiled.mlir("runtime")
    assert middle.count('format = "toy"') == 3
    assert 'sparse_gemm.format_refused = "K must be a multiple of 8, got K=52"' in middle
    assert "_gated" not in middle
    assert runtime.count("torch.sparseflow.linear_toy") == 3
    assert "!torch.tuple<vtensor<[64,48],si8>, vtensor<[64,12],ui8>, vtensor<[64],f32>>" in runtime


def test_the_report_has_its_bytes_errors_and_reasons(model, toy):
    layers = {layer.name: layer for layer in compiled_of(model).report.layers}
    for name in TOYS:
        layer = layers[name]
        assert (layer.decision, layer.format) == ("sparse", "toy")
        assert layer.bytes == layer.N * (layer.K // 2 + layer.K // 8 + 4)
        assert layer.format_err is not None
        assert 0 < layer.format_err.weight < 0.02
        assert 0 < layer.format_err.output < 0.02
        assert f"in toy, {layer.format_err}" in layer.reason
    assert (layers["odd"].format, layers["odd"].format_err) == ("2:4", None)
    assert "not in toy: K must be a multiple of 8, got K=52" in layers["odd"].reason


def test_measured_policies_leave_it_the_format(model, toy):
    """A CPU has nothing to measure here: no time decides what a layer computes."""
    compiled, twin = compiled_of(model, policy="auto", memory="fast"), expected_of(model, toy)
    with torch.no_grad():
        assert_same(compiled(x_of(5))[:2], twin(x_of(5))[:2])


@torch.no_grad()
def test_it_is_saved_and_loaded(model, tmp_path, toy):
    compiled = compiled_of(model)
    compiled.save(tmp_path / "saved")
    loaded = sf.load(tmp_path / "saved")
    for lead in ((5,), (1,), (40,)):
        assert all(map(torch.equal, loaded(x_of(*lead)), compiled(x_of(*lead))))
    assert loaded.report["layers"] == json.loads(json.dumps(compiled.report.to_dict()["layers"]))
    held = [m for m in loaded.graph().modules() if isinstance(m, PackedWeight)]
    assert sorted(m.format.name for m in held) == ["2:4", "toy", "toy", "toy"]
    formats.unregister("toy")
    with pytest.raises(ArtifactError, match="format 'toy'"):
        sf.load(tmp_path / "saved")


@torch.no_grad()
def test_inplace_releases_the_dense_weights(model, toy):
    twin = expected_of(model, toy)
    compiled = compiled_of(model, inplace=True)
    assert_same(compiled(x_of(5)), twin(x_of(5)))
    assert model.down.weight.isnan().all()


@pytest.mark.parametrize("memory", ["compressed", "fast"])
def test_a_sparse_linear_runs_it_and_gives_gradients(toy, memory):
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    linear.weight.data = sf.prune_24(linear.weight)
    layer = SparseLinear(pack(linear.weight, "toy"), linear.bias, memory=memory)
    linear.weight.data = toy.unpack(toy.pack(linear.weight.data), 64)
    for rows in (1, 7):
        x, y = (x_of(rows).requires_grad_() for _ in range(2))
        layer(x).square().sum().backward()
        linear(y).square().sum().backward()
        torch.testing.assert_close(layer(x), linear(y))
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


def test_a_sparse_linear_is_saved_cast_densified_and_traced(toy):
    layer = SparseLinear(pack(sf.prune_24(torch.randn(32, 64)), "toy"))
    other = SparseLinear(PackedWeight.empty(32, 64, format="toy"))
    state = layer.state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "weight": torch.int8,
        "weight.positions": torch.uint8,
        "weight.scales": torch.float32,
    }
    other.load_state_dict(state)
    x = x_of(3)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), layer(x))
    half = copy.deepcopy(layer).bfloat16()
    assert [tensor.dtype for tensor in half.weight.tensors] == [torch.int8, torch.uint8, torch.float32]
    assert half(x.bfloat16()).dtype == torch.bfloat16
    plain = nn.Sequential(half)
    sf.nn.densify(plain)
    # What it stands for is rounded to bfloat16 there.
    torch.testing.assert_close(plain(x.bfloat16()), half(x.bfloat16()), rtol=2e-2, atol=5e-2)


def test_sparse_mm_runs_it(toy):
    weight = pack(sf.prune_24(torch.randn(32, 64)), "toy")
    x, bias, residual = x_of(3), torch.randn(32), torch.randn(3, 32)
    found = sf.sparse_mm(x, weight, bias, "relu", residual=residual)
    torch.testing.assert_close(found, F.relu(F.linear(x, weight.unpack(), bias)) + residual)


@pytest.mark.parametrize("convert", [to_bitmask, to_semi_structured])
def test_forms_of_others_that_are_2_4_refuse_it(convert):
    weight = pack(sf.prune_24(torch.randn(64, 64)).bfloat16(), "toy")
    with pytest.raises(ArgumentError, match="needs a weight in 2:4, not in toy"):
        convert(weight)


@pytest.mark.parametrize("dim", [0, 1])
def test_shards_add_up_to_the_whole(toy, dim):
    weight, x = pack(sf.prune_24(torch.randn(32, 64)), "toy"), x_of(3)
    parts = [weight.shard(dim, rank, 2) for rank in range(2)]
    if dim == 0:
        found = torch.cat([sf.sparse_mm(x, part) for part in parts], -1)
    else:
        found = sum(sf.sparse_mm(piece, part) for piece, part in zip(x.chunk(2, -1), parts, strict=True))
    torch.testing.assert_close(found, sf.sparse_mm(x, weight))


def test_without_registering_it_is_unknown(model):
    formats.unregister("toy")
    with pytest.raises(ArgumentError, match="format must be one of '2:4', '4:6', '6:8', '2:4-fp8', None\n"):
        sf.compile(model, format="toy")
