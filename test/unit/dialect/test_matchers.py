"""Matchers over values: constants, weights, operations."""

import pytest
from torch_mlir import ir

from sparseflow.dialect import WeightOp, load
from sparseflow.dialect.base import number_of, text_of, view_as
from sparseflow.dialect.matchers import (
    constant_int,
    constant_ints,
    defined_by,
    is_none,
    known_bool,
    layer_name,
    only_reader,
    operations,
    weight_ref,
)
from sparseflow.passes.ir_builder import constant_bool
from sparseflow.passes.ir_builder import constant_int as constant_int_of

TEXT = """
func.func @main(%x: !torch.vtensor<[4,64],f32>, %s: !torch.int) {
  %none = torch.constant.none
  %seven = torch.constant.int -7
  %list = torch.prim.ListConstruct %seven, %s : (!torch.int, !torch.int) -> !torch.list<int>
  %w = "sparse_gemm.weight"() {name = "a.weight", transposed} : () -> !torch.vtensor<[32,64],f32>
  %m = "sparse_gemm.merged_weight"() {names = ["a.weight", "b"], sizes = array<i64: 30, 2>}
    : () -> !torch.vtensor<[32,64],f32>
  torch.prim.If %flag -> () {
    %inner = torch.constant.int 3
    torch.prim.If.yield
  } else {
    torch.prim.If.yield
  }
  return
}
""".replace("%s: !torch.int)", "%s: !torch.int, %flag: !torch.bool)")


@pytest.fixture
def module():
    context = ir.Context()
    load(context)
    return ir.Module.parse(TEXT, context)


@pytest.fixture
def values(module):
    (function,) = module.body.operations
    block = function.body.blocks[0]
    none, seven, list_, w, m, *_ = (op.operation.results[0] for op in list(block.operations)[:5])
    return {"x": block.arguments[0], "none": none, "seven": seven, "list": list_, "w": w, "m": m}


def test_constants(values):
    assert constant_int(values["seven"]) == -7
    assert constant_int(values["x"]) is None
    assert is_none(values["none"])
    assert not is_none(values["seven"])
    assert constant_ints(values["list"]) == [-7, None]
    assert constant_ints(values["seven"]) is None


def test_a_block_argument_is_defined_by_nothing(values):
    assert defined_by(values["x"], "torch.constant.none") is None
    assert weight_ref(values["x"]) is None


def test_a_weight_is_one_name(values):
    ref = weight_ref(values["w"])
    assert ref.names == ("a.weight",)
    assert ref.transposed == (True,)
    assert ref.layers == ("a",)


def test_a_merged_weight_is_several(values):
    ref = weight_ref(values["m"])
    assert ref.names == ("a.weight", "b")
    assert ref.transposed == (False, False)
    assert ref.sizes == (30, 2)
    assert ref.layers == ("a", "b")


def test_operations_are_found_in_regions_too_in_program_order(module):
    found = operations(module, {"torch.constant.int"})
    assert [op.attributes["value"].value for op in found] == [-7, 3]


def test_a_layer_is_named_by_its_weight():
    assert layer_name("model.layers.0.q_proj.weight") == "model.layers.0.q_proj"
    assert layer_name("experts.gate_up_proj") == "experts.gate_up_proj"


def test_the_one_reader_of_a_block_argument():
    text = """func.func @main(%x: !torch.vtensor<[4,64],f32>, %s: !torch.int) -> !torch.vtensor<[4,64],f32> {
      %y = torch.aten.relu %x : !torch.vtensor<[4,64],f32> -> !torch.vtensor<[4,64],f32>
      return %y : !torch.vtensor<[4,64],f32>
    }"""
    context = ir.Context()
    load(context)
    module = ir.Module.parse(text, context)
    block = module.body.operations[0].body.blocks[0]
    assert only_reader(block.arguments[0]).name == "torch.aten.relu"
    assert only_reader(block.arguments[1]) is None


def test_truth_values(module):
    with module.context, ir.Location.unknown(), ir.InsertionPoint(module.body):
        true = constant_bool(True)
        assert known_bool(true) is True
        assert known_bool(constant_bool(False)) is False
        assert known_bool(constant_int_of(1)) is None


def test_attributes_of_another_kind_are_refused(values):
    weight, seven = values["w"].owner.operation, values["seven"].owner.operation
    assert text_of(weight, "name") == "a.weight"
    assert number_of(seven) == -7
    with pytest.raises(ValueError, match="StringAttr"):
        text_of(seven)
    with pytest.raises(TypeError, match="is not a number"):
        number_of(weight, "name")
    assert view_as(weight, WeightOp).results[0] == values["w"]
    with pytest.raises(TypeError, match=r"torch\.constant\.int is not a WeightOp"):
        view_as(seven, WeightOp)
