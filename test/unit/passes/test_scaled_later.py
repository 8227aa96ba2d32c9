"""Whose results in fp8 cost nothing to scale, because what reads them goes over the elements anyway."""

import pytest
import torch
from torch_mlir import ir

from sparseflow.compiler.measured_policies import scaled_later
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect import load
from sparseflow.dialect.matchers import operations
from sparseflow.passes.scaled_later import scaled_by_its_readers

BF16 = "!torch.vtensor<[?,64],bf16>"
LINEAR = f"""({BF16}, !torch.vtensor<[64,64],bf16>) -> {BF16}"""
HEAD = f"""
func.func @main(%x: {BF16}, %g: {BF16}) -> {BF16} {{
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %none = torch.constant.none
  %false = torch.constant.bool false
  %zero = torch.constant.float 0.0
  %w = "sparse_gemm.weight"() {{name = "fc.weight"}} : () -> !torch.vtensor<[64,64],bf16>
  %v = "sparse_gemm.weight"() {{name = "next.weight"}} : () -> !torch.vtensor<[64,64],bf16>
"""
MUL = f"torch.aten.mul.Tensor %y, %g : {BF16}, {BF16} -> {BF16}"
DENSE = f"%m = torch.aten.linear %y, %v, %none : {BF16}, !torch.vtensor<[64,64],bf16>, !torch.none -> "
DENSE += BF16
SIZES = "%s = torch.prim.ListConstruct %one, %one : (!torch.int, !torch.int) -> !torch.list<int>"
VIEWED = f"torch.aten.view %y, %s : {BF16}, !torch.list<int> -> {BF16}"


def linear(name, x, format_, w="%w", residual="", segments="1, 1, 0, 0"):
    more, types = (f", {residual}", LINEAR.replace(") ->", f", {BF16}) ->")) if residual else ("", LINEAR)
    return (
        f'{name} = "sparse_gemm.linear"({x}, {w}{more}) {{format = "{format_}", epilogue = "none",'
        f' policy = "", operandSegmentSizes = array<i32: {segments}>}} : {types}'
    )


def parsed(*body, result="%m", format_="2:4-fp8"):
    context = ir.Context()
    load(context)
    lines = "\n".join([linear("%y", "%x", format_), *body, f"return {result} : {BF16}"])
    return ir.Module.parse(HEAD + lines + "\n}", context)


READERS = {
    "an operator of its elements": ([f"%m = {MUL}"], True),
    "views of it, and their elements": ([SIZES, f"%v0 = {VIEWED}", f"%m = {MUL.replace('%y', '%v0')}"], True),
    "a layer that quantises its rows": ([linear("%m", "%y", "2:4-fp8", "%v")], True),
    "a layer that takes them as they are": ([linear("%m", "%y", "2:4", "%v")], False),
    "the end of a product": ([linear("%m", "%x", "2:4-fp8", "%v", "%y", "1, 1, 0, 1")], False),
    "a product": ([DENSE], False),
    "the caller": ([], False),
    "elements, and the caller": ([f"%m = {MUL}"], False),
}


@pytest.mark.parametrize("read_by", READERS)
def test_by_what_reads_it(read_by):
    body, scaled = READERS[read_by]
    result = "%y" if read_by.endswith("the caller") else "%m"
    module = parsed(*body, result=result)
    first = operations(module, ("sparse_gemm.linear",))[0]
    assert scaled_by_its_readers(first) is scaled


def test_a_gate_stays_in_the_products_end():
    module = parsed(f"%m = {MUL}")
    (layer,) = operations(module, ("sparse_gemm.linear",))
    assert scaled_by_its_readers(layer)
    with module.context:
        layer.attributes["epilogue"] = ir.StringAttr.get("silu_gated")
    assert not scaled_by_its_readers(layer)


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("body", "format_", "inner", "device", "later"),
    [
        ([f"%m = {MUL}"], "2:4-fp8", "auto", CUDA, {(64, 64)}),
        ([f"%m = {MUL}"], "2:4-fp8", "eager", CUDA, set()),
        ([f"%m = {MUL}"], "2:4-fp8", "inductor", torch.device("cpu"), set()),
        ([f"%m = {MUL}"], "2:4", "auto", CUDA, set()),
        # One of the two layers of the shape has its result read by the caller.
        ([linear("%m", "%y", "2:4-fp8", "%v")], "2:4-fp8", "auto", CUDA, set()),
    ],
)
def test_shapes_of_which_all_layers_are_scaled_later(body, format_, inner, device, later):
    module = parsed(*body, format_=format_)
    assert scaled_later(module, CompileOptions(format=format_, inner=inner), device) == later
