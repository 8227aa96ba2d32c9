"""Lowering hand-written modules: every kind of operation, weight and argument."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.errors import LoweringError
from sparseflow.lowering import DenseWeights, to_fx

X = "!torch.vtensor<[?,4],f32>"
W = "!torch.vtensor<[6,4],f32>"
Y = "!torch.vtensor<[?,6],f32>"


def lower(body, weights=None, signature=f"(%x: {X}) -> {Y}"):
    context = ir.Context()
    dialect.load(context)
    module = ir.Module.parse(f"func.func @main{signature} {{\n{body}\n}}", context)
    provider = DenseWeights(weights) if weights is None or isinstance(weights, dict) else weights
    return to_fx(module, provider)


def test_a_sparse_layer_that_was_not_lowered_is_refused():
    body = f"""
      %w = "sparse_gemm.weight"() {{name = "layer.weight"}} : () -> {W}
      %y = "sparse_gemm.linear"(%x, %w) {{format = "2:4", epilogue = "none", policy = "",
        operandSegmentSizes = array<i32: 1, 1, 0, 0>}} : ({X}, {W}) -> {Y}
      return %y : {Y}"""
    with pytest.raises(LoweringError, match=r"sparse_gemm\.linear at .*\n.*run lower-sparse-gemm first"):
        lower(body, {"layer.weight": torch.randn(6, 4)})


def test_weights_are_shared_and_need_no_gradient():
    weight = nn.Parameter(torch.randn(6, 4))
    body = f"""
      %w = "sparse_gemm.weight"() {{name = "a.weight"}} : () -> {W}
      return %w : {W}"""
    graph = lower(body, {"a.weight": weight}, f"(%x: {X}) -> {W}")
    (found,) = graph(torch.randn(1, 4))
    assert found.data_ptr() == weight.data_ptr()
    assert not found.requires_grad
    assert list(dict(graph.named_buffers())) == ["a_weight"]


def test_names_that_clash_as_attributes_stay_apart():
    body = """
      %a = "sparse_gemm.weight"() {name = "a.b"} : () -> !torch.vtensor<[1],f32>
      %b = "sparse_gemm.weight"() {name = "a_b"} : () -> !torch.vtensor<[1],f32>
      %c = "sparse_gemm.weight"() {name = "0.a"} : () -> !torch.vtensor<[1],f32>
      return %a, %b, %c : !torch.vtensor<[1],f32>, !torch.vtensor<[1],f32>, !torch.vtensor<[1],f32>"""
    weights = {name: torch.tensor([float(i)]) for i, name in enumerate(("a.b", "a_b", "0.a"))}
    results = "!torch.vtensor<[1],f32>"
    graph = lower(body, weights, f"(%x: {X}) -> ({results}, {results}, {results})")
    assert [float(t) for t in graph(None)] == [0, 1, 2]


def test_a_transposed_weight_is_a_view():
    body = f"""
      %w = "sparse_gemm.weight"() {{name = "w", transposed}} : () -> {W}
      return %w : {W}"""
    weight = torch.randn(4, 6)
    (found,) = lower(body, {"w": weight}, f"(%x: {X}) -> {W}")(None)
    assert torch.equal(found, weight.t())
    assert found.data_ptr() == weight.data_ptr()


def test_a_merged_weight_stacks_rows_transposed_or_not():
    body = f"""
      %w = "sparse_gemm.merged_weight"() {{names = ["a", "b"], transposed = array<i1: false, true>}}
        : () -> {W}
      return %w : {W}"""
    a, b = torch.randn(2, 4), torch.randn(4, 4)
    (found,) = lower(body, {"a": a, "b": b}, f"(%x: {X}) -> {W}")(None)
    assert torch.equal(found, torch.cat([a, b.t()]))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("values", torch.randn(6, 2))
        self.register_buffer("positions", torch.zeros(6, 1, dtype=torch.uint8))
        self.register_buffer("dense", None)

    def keep_dense(self):
        self.dense = torch.randn(6, 4)


class Bank:
    """Hands out one packed weight and records what was asked for."""

    def __init__(self):
        self.asked = []
        self.weight = Packed()

    def packed(self, *args):
        self.asked.append(args)
        return self.weight


PACKED = """
  %t = "sparse_gemm.packed_weight"() {names = ["a.weight", "b.weight"], format = "2:4",
    weight = !torch.vtensor<[6,4],f32>%s} : () -> !torch.tuple<vtensor<[6,2],f32>, vtensor<[6,1],ui8>>
  %v, %p = torch.prim.TupleUnpack %t : !torch.tuple<vtensor<[6,2],f32>, vtensor<[6,1],ui8>>
    -> !torch.vtensor<[6,2],f32>, !torch.vtensor<[6,1],ui8>
  return %%v, %%p : !torch.vtensor<[6,2],f32>, !torch.vtensor<[6,1],ui8>"""
PACKED_TYPE = f"(%x: {X}) -> (!torch.vtensor<[6,2],f32>, !torch.vtensor<[6,1],ui8>)"


@pytest.mark.parametrize(
    ("attribute", "asked"),
    [
        ("", (("a.weight", "b.weight"), (), "2:4")),
        (", transposed = array<i1: true, false>", (("a.weight", "b.weight"), (True, False), "2:4")),
    ],
)
def test_a_packed_weight_is_asked_for_once_and_shared(attribute, asked):
    bank = Bank()
    body = PACKED.replace("%s", attribute).replace("%%", "%")
    one, other = lower(body, bank, PACKED_TYPE), lower(body, bank, PACKED_TYPE)
    assert bank.asked == [asked, asked]
    assert [m for m in one.modules() if isinstance(m, Packed)] == [bank.weight]
    assert one(None)[0] is other(None)[0] is bank.weight.values


def test_the_pruned_weight_is_the_dense_form_that_the_packed_one_keeps():
    bank = Bank()
    body = """
      %w = "sparse_gemm.pruned_weight"() {names = ["a.weight", "b.weight"], format = "2:4"}
        : () -> !torch.vtensor<[6,4],f32>
      return %w : !torch.vtensor<[6,4],f32>"""
    graph = lower(body, bank, f"(%x: {X}) -> !torch.vtensor<[6,4],f32>")
    assert graph(None)[0] is bank.weight.dense


def test_merged_weights_need_a_provider_that_packs():
    with pytest.raises(LoweringError, match="has no packed weights"):
        lower(PACKED.replace("%s", "").replace("%%", "%"), {}, PACKED_TYPE)


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("dense<[1.5, -2.0]> : tensor<2xf32>", "f32", [1.5, -2.0]),
        ("dense<[1, -2]> : tensor<2xsi64>", "si64", [1, -2]),
        ("dense<[true, false]> : tensor<2xi1>", "i1", [True, False]),
        ("dense<[1, 255]> : tensor<2xui8>", "ui8", [1, 255]),
        ("dense<3.0> : tensor<2xbf16>", "bf16", [3.0, 3.0]),
    ],
)
def test_literals_are_constants(text, dtype, expected):
    type_ = f"!torch.vtensor<[2],{dtype}>"
    body = f"%0 = torch.vtensor.literal({text}) : {type_}\nreturn %0 : {type_}"
    (found,) = lower(body, {}, f"(%x: {X}) -> {type_}")(None)
    assert found.tolist() == expected


def test_keyword_only_arguments_and_enumerations_are_decoded():
    result = "!torch.vtensor<[2,?],f16>"
    body = f"""
      %int0 = torch.constant.int 0
      %int1 = torch.constant.int 1
      %int2 = torch.constant.int 2
      %int5 = torch.constant.int 5
      %none = torch.constant.none
      %false = torch.constant.bool false
      %cpu = torch.constant.device "cpu"
      %n = torch.aten.size.int %x, %int0 : {X}, !torch.int -> !torch.int
      %m = torch.aten.mul.int %n, %int2 : !torch.int, !torch.int -> !torch.int
      %s = torch.prim.ListConstruct %int2, %m : (!torch.int, !torch.int) -> !torch.list<int>
      %y = torch.aten.full %s, %int1, %int5, %int0, %cpu, %false
        : !torch.list<int>, !torch.int, !torch.int, !torch.int, !torch.Device, !torch.bool -> {result}
      return %y : {result}"""
    graph = lower(body, {}, f"(%x: {X}) -> {result}")
    (full,) = [node for node in graph.graph.nodes if node.target is torch.ops.aten.full.default]
    assert full.kwargs["dtype"] is torch.float16
    assert full.kwargs["layout"] is torch.strided
    assert graph(torch.randn(3, 4))[0].tolist() == torch.ones(2, 6).tolist()


def test_a_view_of_a_slice_is_a_reshape():
    result = "!torch.vtensor<[?],f32>"
    body = f"""
      %int0 = torch.constant.int 0
      %int1 = torch.constant.int 1
      %int2 = torch.constant.int 2
      %int-1 = torch.constant.int -1
      %0 = torch.aten.slice.Tensor %x, %int1, %int0, %int2, %int1
        : {X}, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,2],f32>
      %s = torch.prim.ListConstruct %int-1 : (!torch.int) -> !torch.list<int>
      %y = torch.aten.view %0, %s : !torch.vtensor<[?,2],f32>, !torch.list<int> -> {result}
      return %y : {result}"""
    x = torch.randn(3, 4)
    assert torch.equal(lower(body, {}, f"(%x: {X}) -> {result}")(x)[0], x[:, :2].reshape(-1))


def test_unused_operations_are_dropped():
    body = f"""
      %0 = torch.aten.relu %x : {X} -> {X}
      return %x : {X}"""
    graph = lower(body, {}, f"(%x: {X}) -> {X}")
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "output"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f'%0 = torch.operator "torch.nowhere.op"(%x) : ({X}) -> {X}\nreturn %0 : {X}', "torch.nowhere.op"),
        (
            f'%0 = torch.operator "torch.aten.relu.odd"(%x) : ({X}) -> {X}\nreturn %0 : {X}',
            "torch.aten.relu.odd",
        ),
        (f'%0 = torch.operator "odd"(%x) : ({X}) -> {X}\nreturn %0 : {X}', "odd"),
        (
            f'%0 = torch.operator "torch.aten.relu"(%x, %x) : ({X}, {X}) -> {X}\nreturn %0 : {X}',
            "torch.aten.relu",
        ),
    ],
)
def test_an_operation_without_a_counterpart_is_named(body, words):
    with pytest.raises(LoweringError, match=words.replace(".", r"\.")):
        lower(body, {}, f"(%x: {X}) -> {X}")


def test_a_weight_that_nobody_has_is_named():
    body = f'%w = "sparse_gemm.weight"() {{name = "gone"}} : () -> {W}\nreturn %w : {W}'
    with pytest.raises(LoweringError, match="gone"):
        lower(body, {}, f"(%x: {X}) -> {W}")


def test_a_module_without_main_is_refused():
    context = ir.Context()
    dialect.load(context)
    with pytest.raises(LoweringError, match="@main"):
        to_fx(ir.Module.parse("func.func private @other()", context), DenseWeights({}))
