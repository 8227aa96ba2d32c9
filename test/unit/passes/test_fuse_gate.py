"""Layers with a fused gate compute what the operations after them did, on random inputs."""

import pytest
import torch
from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.lowering import DenseWeights, to_fx
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.runtime import compress_2_4, prune_24

N, K = 20, 12
X, Y = (f"!torch.vtensor<[?,?,{size}],f32>" for size in (K, N))


def layer(name: str) -> str:
    return f"""
  %{name}_w = "sparse_gemm.weight"() {{name = "{name}.weight"}} : () -> !torch.vtensor<[{N},{K}],f32>
  %{name}_b = "sparse_gemm.weight"() {{name = "{name}.bias"}} : () -> !torch.vtensor<[{N}],f32>
  %{name} = torch.aten.linear %x, %{name}_w, %{name}_b
    : {X}, !torch.vtensor<[{N},{K}],f32>, !torch.vtensor<[{N}],f32> -> {Y}"""


def text(first: str, second: str, activation: str) -> str:
    """An MLP's gate and up, which are merged in the order of `first` and `second`."""
    act = f"torch.aten.{activation} %gate : {Y} -> {Y}"
    if activation.startswith("gelu"):
        act = f"torch.aten.gelu %gate, %kind : {Y}, !torch.str -> {Y}"
    kind = "tanh" if activation == "gelu_tanh" else "none"
    return f"""
func.func @main(%x: {X}) -> {Y} {{
  %kind = torch.constant.str "{kind}"
  {layer(first)}
  {layer(second)}
  %act = {act}
  %y = torch.aten.mul.Tensor %up, %act : {Y}, {Y} -> {Y}
  return %y : {Y}
}}"""


class Weights(DenseWeights):
    """2:4 weights, merged in the order in which they are asked for."""

    def packed(self, names, transposed, format):
        return compress_2_4(self.dense(names, transposed))


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    biases = {f"{name}.bias": torch.randn(N) for name in ("gate", "up")}
    return Weights(biases | {f"{name}.weight": prune_24(torch.randn(N, K)) for name in ("gate", "up")})


def rewritten(source, *pipelines):
    context = ir.Context()
    load(context)
    module = ir.Module.parse(source, context)
    for pipeline in pipelines:
        run_pipeline(module, pipeline)
    return module


def fused(source, *more):
    return str(rewritten(source, FUSED, *more))


FUSED = "match-sparse-linear{min-n=1 min-k=1},merge-projections,fuse-epilogue,fuse-gate"


@pytest.mark.parametrize("policy", ["1:cpu", "dense", "1:cpu,2:dense"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("order", [("gate", "up"), ("up", "gate")])
def test_fusing_keeps_what_is_computed(order, activation, policy, weights):
    source = text(*order, activation)
    before = to_fx(rewritten(source), weights)
    assert f'epilogue = "{activation}_gated"' in fused(source)
    table = ApplyPolicy({f"f32:{2 * N}x{K}": policy})
    lowered = rewritten(source, FUSED, [table], "lower-sparse-gemm")
    assert ('"torch.sparseflow.linear"' in str(lowered)) == (policy != "dense")
    after = to_fx(lowered, weights)
    for shape in ((1, 1), (2, 3), (0, 4)):
        x = torch.randn(*shape, K)
        torch.testing.assert_close(after(x)[0], before(x)[0], rtol=1e-5, atol=1e-5)


def test_other_passes_leave_a_gated_layer_as_it_is():
    source = text("gate", "up", "silu")
    assert fused(source, "merge-projections,fuse-epilogue,fuse-gate") == fused(source)
    assert 'sparse_gemm.format_refused = "it is f32' in fused(source, "choose-format{format=2:4-fp8}")
