"""Running passes: verification, timing, callbacks, failures that can be reproduced."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.errors import PassError
from sparseflow.passes import Pass, run_pipeline
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.tools import opt

DENSE = """
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none
    -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}
"""
COMPUTED = """
func.func @main(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[32,64],f32>)
    -> !torch.vtensor<[4,32],f32> {
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "",
    operandSegmentSizes = array<i32: 1, 1, 0, 0>}
    : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}
"""


def parse(text):
    context = ir.Context()
    load(context)
    return ir.Module.parse(text, context)


@dataclass(frozen=True)
class Raise(Pass):
    """A pass with a bug."""

    name: ClassVar[str] = "raise"

    def run(self, module):
        raise KeyError("oops")


@dataclass(frozen=True)
class Break(Pass):
    """A pass that leaves invalid IR."""

    name: ClassVar[str] = "break"

    def run(self, module):
        (function,) = module.body.operations
        weight = function.body.blocks[0].operations[0]
        weight.attributes["name"] = ir.StringAttr.get("")


def test_text_and_objects_run_alike():
    from_text, from_objects = parse(DENSE), parse(DENSE)
    run_pipeline(from_text, "match-sparse-linear{skip=f?}")
    run_pipeline(from_objects, [MatchSparseLinear(skip=("f?",))])
    assert str(from_text) == str(from_objects)
    assert "skipped by the pattern 'f?'" in str(from_text)


def test_every_pass_is_timed_and_reported_in_order():
    module, seen = parse(DENSE), []

    def after(pass_, module):
        seen.append((pass_.name, "sparse_gemm.linear" in str(module), "sparseflow.linear" in str(module)))

    timings = run_pipeline(module, "cse,match-sparse-linear,lower-sparse-gemm", after_each=after)
    assert [timing.name for timing in timings] == ["cse", "match-sparse-linear", "lower-sparse-gemm"]
    assert all(timing.seconds > 0 for timing in timings)
    assert seen == [
        ("native", False, False),
        ("match-sparse-linear", True, False),
        ("lower-sparse-gemm", False, True),
    ]


def test_the_dialect_is_loaded_where_it_is_missing():
    context = ir.Context()
    module = ir.Module.parse("module {}", context)
    run_pipeline(module, "match-sparse-linear")
    assert context.is_registered_operation("sparse_gemm.linear")


def test_an_unknown_pass_is_refused_before_anything_runs():
    module = parse(DENSE)
    with pytest.raises(PassError, match="pass 'nope': is unknown"):
        run_pipeline(module, "match-sparse-linear,nope")
    assert "sparse_gemm.linear" not in str(module)


def test_invalid_input_is_no_pass_s_fault():
    module = parse(DENSE)
    with module.context:
        Break().run(module)
    with pytest.raises(PassError, match=r"the module: is not valid: [\s\S]*non-empty string 'name'"):
        run_pipeline(module, "match-sparse-linear")


def failure(module, passes, **options):
    with pytest.raises(PassError) as caught:
        run_pipeline(module, passes, **options)
    return str(caught.value)


def written_file(message):
    path = Path(re.search(r"(\S*sparseflow-\S+\.mlir)$", message)[1])
    text = path.read_text()
    path.unlink()
    return text


def test_a_pass_that_leaves_invalid_ir_is_named():
    message = failure(parse(DENSE), [MatchSparseLinear(), Break()])
    assert message.startswith("pass 'break': failed: ")
    assert "non-empty string 'name'" in message
    assert "builtin.module(match-sparse-linear,break)" in message
    written_file(message)


def test_a_bug_is_called_one_and_its_input_is_kept_as_it_was():
    module = parse(DENSE)
    before = module.operation.get_asm(enable_debug_info=True)
    message = failure(module, [MatchSparseLinear(), Raise()])
    assert "pass 'raise': failed with KeyError: 'oops'; that is a bug in the pass" in message
    assert str(parse(written_file(message))) == str(parse(before))


def test_the_command_in_the_message_fails_the_same_way(capsys):
    message = failure(parse(COMPUTED), "cse,lower-sparse-gemm")
    command = re.search(r"Reproduce it with: sparseflow-opt (.*)$", message, re.MULTILINE)[1]
    assert opt.main(shlex.split(command)) == 1
    again = capsys.readouterr()
    assert again.out == ""
    assert "computed at run time; only references can be packed" in again.err
    assert command in again.err
    written_file(message)


def test_a_known_source_is_named_instead_of_a_copy():
    message = failure(parse(COMPUTED), "lower-sparse-gemm", source="model file.mlir")
    assert message.endswith("'--pass-pipeline=builtin.module(lower-sparse-gemm)' 'model file.mlir'")
