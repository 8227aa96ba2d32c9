"""Layers with fused epilogues compute what the operations after them did, on random inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.lowering import DenseWeights, to_fx
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.runtime import compress_2_4, prune_24

N = 20
Y, ROW = f"!torch.vtensor<[?,?,{N}],f32>", f"!torch.vtensor<[{N}],f32>"
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


def activation(index: int, kind: str) -> str:
    if not kind.startswith("gelu"):
        return f"%a{index} = torch.aten.{kind} %b{index} : {Y} -> {Y}"
    text = "tanh" if kind.endswith("tanh") else "none"
    return f"""%t{index} = torch.constant.str "{text}"
  %a{index} = torch.aten.gelu %b{index}, %t{index} : {Y}, !torch.str -> {Y}"""


def layer(index: int, kind: str, residual: str) -> str:
    """``act(x · Wᵀ + bias) + residual`` in separate operations, x being the layer before."""
    matrix = f"!torch.vtensor<[{N},{N}],f32>"
    return f"""
  %w{index} = "sparse_gemm.weight"() {{name = "w"}} : () -> {matrix}
  %y{index} = torch.aten.linear %x{index}, %w{index}, %none : {Y}, {matrix}, !torch.none -> {Y}
  %b{index} = torch.aten.add.Tensor %y{index}, %bias, %one : {Y}, {ROW}, !torch.int -> {Y}
  {activation(index, kind)}
  %r{index} = torch.aten.sin {residual} : {Y} -> {Y}
  %x{index + 1} = torch.aten.add.Tensor %r{index}, %a{index}, %one : {Y}, {Y}, !torch.int -> {Y}"""


# The last layer's residual is an argument: it may broadcast, so it isn't fused; the others' are.
TEXT = f"""
func.func @main(%x0: {Y}, %bias: {ROW}, %given: {Y}) -> {Y} {{
  %none = torch.constant.none
  %one = torch.constant.int 1
  {"".join(layer(index, kind, f"%x{index}") for index, kind in enumerate(ACTIVATIONS))}
  {layer(len(ACTIVATIONS), "relu", "%given")}
  return %x{len(ACTIVATIONS) + 1} : {Y}
}}
"""


class Weights(DenseWeights):
    """One 2:4 weight."""

    def packed(self, names, transposed, format):
        return compress_2_4(self.dense(names, transposed))


WEIGHTS = Weights({"w": prune_24(torch.randn(N, N, generator=torch.Generator().manual_seed(0)) / 4)})
SPARSE = "match-sparse-linear{min-n=1 min-k=1}"


def rewritten(*pipelines):
    context = ir.Context()
    load(context)
    module = ir.Module.parse(TEXT, context)
    for pipeline in pipelines:
        run_pipeline(module, pipeline)
    return module


BEFORE = to_fx(rewritten(), WEIGHTS)


@pytest.fixture(scope="module", params=["sparse", "dense again", "dense from two rows on"])
def after(request):
    policy = {"sparse": "1:cpu", "dense again": "dense", "dense from two rows on": "1:cpu,2:dense"}
    table = ApplyPolicy({f"f32:{N}x{N}": policy[request.param]})
    return to_fx(rewritten(f"{SPARSE},fuse-epilogue", [table], "lower-sparse-gemm"), WEIGHTS)


def test_everything_is_fused_except_what_may_broadcast():
    text = str(rewritten(f"{SPARSE},fuse-epilogue"))
    assert [text.count(f'epilogue = "{kind}"') for kind in ACTIVATIONS] == [2, 1, 1, 1]
    assert text.count("array<i32: 1, 1, 1, 1>") == len(ACTIVATIONS)
    assert text.count("array<i32: 1, 1, 1, 0>") == text.count("torch.aten.add.Tensor") == 1


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(0, 3),
    length=st.integers(0, 5),
    stretched=st.sampled_from(["nothing", "layer", "residual"]),
    seed=st.integers(0, 2**16),
)
def test_fusing_keeps_what_is_computed(after, batch, length, stretched, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1 if stretched == "layer" else batch, length, N, generator=generator)
    residual = torch.randn(1 if stretched == "residual" else batch, length, N, generator=generator)
    bias = torch.randn(N, generator=generator)
    expected, found = BEFORE(x, bias, residual)[0], after(x, bias, residual)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
