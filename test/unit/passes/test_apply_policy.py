"""apply-policy made from Python: from a table in memory and from measured policies."""

import pytest
from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.errors import PassError
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.runtime.dispatch import Policy, choose
from sparseflow.runtime.dispatch.measurement import Measurement

TEXT = """
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "",
    operandSegmentSizes = array<i32: 1, 1, 0, 0>}
    : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}
"""


def after(pass_):
    context = ir.Context()
    load(context)
    module = ir.Module.parse(TEXT, context)
    run_pipeline(module, [pass_])
    return str(module)


def measured(*points):
    shape = {"dtype": "float32", "n": 32, "k": 64, "rows": 32, "reps": 9, "crowded": False}
    return choose(
        Measurement(m=m, dense_us=dense, unpacked_us=unpacked, sparse_us=(("cpu", cpu),), **shape)
        for m, dense, cpu, unpacked in points
    )


def test_a_table_in_memory():
    assert 'policy = "1:dense"' in after(ApplyPolicy({"f32:32x64": "1:dense"}))


def test_a_policy_that_pays_becomes_ranges():
    policy = measured((1, 100.0, 50.0, 200.0), (1024, 100.0, 400.0, 101.0))
    assert policy.kernel(1) == "cpu"
    assert f'policy = "{policy}"' in after(ApplyPolicy.of({"f32:32x64": policy}))


def test_a_policy_that_does_not_pay_makes_the_layer_dense_and_says_why():
    policy = measured((1, 100.0, 300.0, 200.0), (1024, 100.0, 400.0, 150.0))
    text = after(ApplyPolicy.of({"f32:32x64": policy}))
    assert "torch.aten.linear" in text
    # MLIR escapes what isn't ASCII in attributes.
    assert policy.why().partition("×")[0] in text


def test_a_policy_without_measurements_is_taken_at_its_word():
    assert 'policy = "1:cpu"' in after(ApplyPolicy.of({"f32:32x64": Policy.parse("1:cpu")}))


def test_layers_that_the_table_does_not_know_stay():
    assert 'policy = ""' in after(ApplyPolicy({"f32:32x65": "1:dense", "f16:32x64": "1:dense"}))


@pytest.mark.parametrize(
    "entry", [None, 3, {}, {"dense": 3}, {"dense": "x", "more": 1}, ["dense"], "1:gpu", "x"]
)
def test_a_bad_entry_is_refused_by_its_key_even_if_no_layer_has_it(entry):
    with pytest.raises(PassError, match="entry 'f64:1x1'"):
        after(ApplyPolicy({"f64:1x1": entry}))
