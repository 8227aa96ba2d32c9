"""A module computes the same before and after each pass, run on random inputs."""

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

N, K, P = 20, 12, 24
XK, XN, XP = (f"!torch.vtensor<[?,?,{size}],f32>" for size in (K, N, P))

# A Conv1D with the views around it, a transposed product with its bias added after, weights that two layers
# share, and two projections that merge; one of
# those is then viewed across the dimension that it is a slice of.
TEXT = f"""
func.func @main(%x: {XK}) ->
    ({XN}, {XN}, {XP},
     {XK}, {XN}, !torch.vtensor<[?],f32>) {{
  %none = torch.constant.none
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %m1 = torch.constant.int -1
  %n = torch.constant.int {N}
  %k = torch.constant.int {K}
  %s0 = torch.aten.size.int %x, %0 : {XK}, !torch.int -> !torch.int
  %s1 = torch.aten.size.int %x, %1 : {XK}, !torch.int -> !torch.int

  %conv = "sparse_gemm.weight"() {{name = "conv"}} : () -> !torch.vtensor<[{K},{N}],f32>
  %bias = "sparse_gemm.weight"() {{name = "bias"}} : () -> !torch.vtensor<[{N}],f32>
  %in = torch.prim.ListConstruct %m1, %k : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in
    : {XK}, !torch.list<int> -> !torch.vtensor<[?,{K}],f32>
  %c = torch.aten.addmm %bias, %flat, %conv, %1, %1 : !torch.vtensor<[{N}],f32>, !torch.vtensor<[?,{K}],f32>,
    !torch.vtensor<[{K},{N}],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,{N}],f32>
  %out = torch.prim.ListConstruct %s0, %s1, %n : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %y0 = torch.aten.view %c, %out : !torch.vtensor<[?,{N}],f32>, !torch.list<int> -> {XN}

  %q = "sparse_gemm.weight"() {{name = "q"}} : () -> !torch.vtensor<[{N},{K}],f32>
  %qt = torch.aten.t %q : !torch.vtensor<[{N},{K}],f32> -> !torch.vtensor<[{K},{N}],f32>
  %qx = torch.aten.matmul %x, %qt
    : {XK}, !torch.vtensor<[{K},{N}],f32> -> {XN}
  %qb = "sparse_gemm.weight"() {{name = "qb"}} : () -> !torch.vtensor<[{N}],f32>
  %y1 = torch.aten.add.Tensor %qx, %qb, %1
    : {XN}, !torch.vtensor<[{N}],f32>, !torch.int -> {XN}

  %p = "sparse_gemm.weight"() {{name = "p"}} : () -> !torch.vtensor<[{P},{K}],f32>
  %y2 = torch.aten.linear %x, %p, %none
    : {XK}, !torch.vtensor<[{P},{K}],f32>, !torch.none -> {XP}

  %square = "sparse_gemm.weight"() {{name = "square"}} : () -> !torch.vtensor<[{K},{K}],f32>
  %h = torch.aten.matmul %x, %square
    : {XK}, !torch.vtensor<[{K},{K}],f32> -> {XK}
  %r = torch.aten.relu %h : {XK} -> {XK}
  %y3 = torch.aten.matmul %r, %square
    : {XK}, !torch.vtensor<[{K},{K}],f32> -> {XK}
  %y4 = torch.aten.linear %r, %q, %none
    : {XK}, !torch.vtensor<[{N},{K}],f32>, !torch.none -> {XN}

  %v = "sparse_gemm.weight"() {{name = "v"}} : () -> !torch.vtensor<[{N},{K}],f32>
  %vx = torch.aten.linear %x, %v, %none
    : {XK}, !torch.vtensor<[{N},{K}],f32>, !torch.none -> {XN}
  %all = torch.prim.ListConstruct %m1 : (!torch.int) -> !torch.list<int>
  %y5 = torch.aten.view %vx, %all : {XN}, !torch.list<int> -> !torch.vtensor<[?],f32>
  return %y0, %y1, %y2, %y3, %y4, %y5 : {XN}, {XN},
    {XP}, {XK}, {XN}, !torch.vtensor<[?],f32>
}}
"""


class Weights(DenseWeights):
    """Weights that can be packed; only those that are 2:4 already."""

    def packed(self, names, transposed, format):
        return compress_2_4(self.dense(names, transposed))


def pruned_weights():
    torch.manual_seed(0)
    transposed = {"conv", "square"}
    shapes = {"conv": (N, K), "q": (N, K), "p": (P, K), "v": (N, K), "square": (K, K)}
    tensors = {name: prune_24(torch.randn(shape)) for name, shape in shapes.items()}
    stored = {name: w.t().contiguous() if name in transposed else w for name, w in tensors.items()}
    return Weights(stored | {"bias": torch.randn(N), "qb": torch.randn(N)})


WEIGHTS = pruned_weights()


def executable(pipeline):
    context = ir.Context()
    load(context)
    module = ir.Module.parse(TEXT, context)
    run_pipeline(module, pipeline)
    return to_fx(module, WEIGHTS), str(module)


BEFORE, _ = executable("")
SMALL = "match-sparse-linear{min-n=1 min-k=1}"
PIPELINES = {
    "canonicalize-linear": 0,
    "canonicalize-linear,cse,canonicalize": 0,
    "canonicalize-linear,merge-projections": 0,
    f"canonicalize-linear,{SMALL},lower-sparse-gemm": 7,
    f"canonicalize-linear,{SMALL},merge-projections,lower-sparse-gemm": 6,
    f"canonicalize-linear,merge-projections,{SMALL},lower-sparse-gemm": 6,
}


@pytest.fixture(scope="module", params=PIPELINES)
def after(request):
    graph, text = executable(request.param)
    assert text.count('"torch.sparseflow.linear"') == PIPELINES[request.param]
    return graph


@settings(deadline=None, max_examples=15)
@given(batch=st.integers(0, 4), length=st.integers(0, 9), seed=st.integers(0, 2**16))
def test_a_pipeline_keeps_what_is_computed(after, batch, length, seed):
    x = torch.randn(batch, length, K, generator=torch.Generator().manual_seed(seed))
    for expected, found in zip(BEFORE(x), after(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layers_that_the_policy_makes_dense_compute_the_same():
    context = ir.Context()
    load(context)
    module = ir.Module.parse(TEXT, context)
    run_pipeline(module, f"canonicalize-linear,{SMALL}")
    before = str(module).count('"sparse_gemm.linear"')
    run_pipeline(module, [ApplyPolicy({f"f32:{N}x{K}": "dense"})])
    assert 0 < str(module).count('"sparse_gemm.linear"') < before
    run_pipeline(module, "lower-sparse-gemm")
    x = torch.randn(2, 3, K)
    for expected, found in zip(BEFORE(x), to_fx(module, WEIGHTS)(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
