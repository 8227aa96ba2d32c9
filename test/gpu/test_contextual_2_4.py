"""Contextual MLPs on CUDA whose products are 2:4 for many rows."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from gpu_weights import error
from torch import nn

import sparseflow as sf
from sparseflow.contextual import MlpPredictor, Predictors, find_model_mlps
from sparseflow.runtime import compress_2_4, prune_24
from sparseflow.runtime.contextual import ContextualWeights, Predictor, ops
from sparseflow.runtime.kernels import Choice

H, NEURONS, M_MAX = 256, 512, 8
BOUND = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
SPARSE = [1, Choice("cusparselt").code]


def packed_mlp(dtype, activation, gated=True):
    generator = torch.Generator("cuda").manual_seed(0)

    def matrix(*shape):
        made = torch.randn(*shape, generator=generator, device="cuda") / shape[1] ** 0.5
        return prune_24(made.to(dtype))

    gate, up, down = matrix(NEURONS, H) if gated else None, matrix(NEURONS, H), matrix(H, NEURONS)
    weights = ContextualWeights.of(gate, up, down, down_bias=torch.randn(H, device="cuda").to(dtype))
    first = compress_2_4(torch.cat([gate, up]) if gated else up)
    packed = [[w.values, w.positions, SPARSE] for w in (first, compress_2_4(down))]
    weights = ContextualWeights(*weights.operands, activation=activation)
    return weights, [*packed[0], *packed[1]]


def auto(x, w, packed):
    p = predictor(x.dtype)
    return ops.contextual_mlp_auto(
        x, *w.operands, *p.operands, p.rule, p.parameter, w.activation, M_MAX, *packed
    )


@functools.cache
def predictor(dtype):
    a, b = torch.randn(16, H, device="cuda"), torch.randn(NEURONS, 16, device="cuda")
    return Predictor(a.to(dtype), b.to(dtype), None, "top_k", 100)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu2"])
def test_packed_products_give_what_the_dense_ones_give(dtype, gated, activation):
    w, packed = packed_mlp(dtype, activation, gated)
    for rows in (M_MAX + 1, 100, 512):
        x = torch.randn(rows, H, device="cuda").to(dtype)
        assert error(auto(x, w, packed), w.dense(x).double()) < BOUND[dtype]
    few = torch.randn(M_MAX, H, device="cuda").to(dtype)
    assert torch.equal(auto(few, w, packed), predictor(dtype).run(few, w))
    assert auto(few[:0], w, packed).shape == (0, H)


@pytest.mark.parametrize("rows", [M_MAX, 64])
def test_both_ways_can_be_captured(rows):
    w, packed = packed_mlp(torch.bfloat16, "silu")
    x = torch.randn(rows, H, device="cuda").bfloat16()
    for _ in range(3):
        auto(x, w, packed)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = auto(x, w, packed)
    x.copy_(torch.randn_like(x))
    y.fill_(float("nan"))
    graph.replay()
    assert error(y, auto(x, w, packed).double()) < 1e-2


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(H, NEURONS, bias=False), nn.Linear(H, NEURONS)
        self.down = nn.Linear(NEURONS, H)

    def forward(self, x):
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_a_compiled_model_serves_few_and_many_rows(inner, tmp_path):
    torch.manual_seed(0)
    model = Mlp().eval().to("cuda", torch.bfloat16)
    x = torch.randn(200, H, device="cuda").bfloat16()
    every = Predictor(*(t.cpu() for t in predictor(torch.bfloat16).operands[:2]), None, "top_k", NEURONS)
    (mlp,) = find_model_mlps(model, (x,), {})
    predictors = Predictors({mlp.name: MlpPredictor(every, 1.0)})
    options = {
        "prune": "magnitude",
        "policy": "sparse",
        "contextual": predictors,
    }
    compiled = sf.compile(model, (x,), inner=inner, **options)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (twin.gate, twin.up, twin.down):
            layer.weight.copy_(sf.prune_24(layer.weight))
        for rows in (1, 32, 33, 200):
            assert error(compiled(x[:rows]), twin(x[:rows]).double()) < 2e-2
    backends = {r.backend.partition("@")[0] for layer in compiled.report.layers for r in layer.ranges}
    assert backends <= {"contextual", "cusparselt", "skinny"}
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact")
    for rows in (2, 200):
        assert error(loaded(x[:rows]), twin(x[:rows]).double()) < 2e-2
