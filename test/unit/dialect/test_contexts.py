"""Loading the dialect: idempotent, in several contexts and threads, without torch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch_mlir import ir

from sparseflow.dialect import LinearOp, WeightOp, load

TEXT = """
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,8],f32> {
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[8,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "",
    operandSegmentSizes = array<i32: 1, 1, 0, 0>}
    : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
"""
BROKEN = TEXT.replace("[8,64]", "[8,60]")


def new_context():
    context = ir.Context()
    load(context)
    return context


def parsed_ops(context):
    module = ir.Module.parse(TEXT, context)
    (function,) = module.body.operations
    return module, list(function.body.blocks[0].operations)


class Searches:
    """Stands among Python's finders and notes what they are asked for."""

    def __init__(self):
        self.names = []

    def find_spec(self, name, path=None, target=None):
        self.names.append(name)


def test_the_dialects_module_is_found_once(monkeypatch):
    parsed_ops(new_context())
    searches = Searches()
    monkeypatch.setattr(sys, "meta_path", [searches, *sys.meta_path])
    module, ops = parsed_ops(new_context())
    assert module.operation.verify()
    assert isinstance(ops[1], LinearOp)
    assert searches.names == []


def test_loading_twice_changes_nothing():
    context = new_context()
    module, _ = parsed_ops(context)
    load(context)
    assert module.operation.verify()
    assert ir.Module.parse(str(module), context).operation.verify()


def test_contexts_do_not_disturb_each_other():
    contexts = [new_context() for _ in range(4)]
    for context in [*contexts, *reversed(contexts)]:
        _, (weight, linear, _) = parsed_ops(context)
        assert isinstance(weight, WeightOp)
        assert isinstance(linear, LinearOp)
        with pytest.raises(ir.MLIRError, match="has K = 64 in x but K = 60 in the weight"):
            ir.Module.parse(BROKEN, context)


def test_a_context_outlives_those_loaded_before_and_after():
    first = new_context()
    kept = new_context()
    del first
    new_context()
    _, (weight, *_) = parsed_ops(kept)
    assert isinstance(weight, WeightOp)


def work_in_a_thread(_):
    texts = []
    for _ in range(5):
        context = new_context()
        module, (_, linear, _) = parsed_ops(context)
        assert isinstance(linear, LinearOp)
        with pytest.raises(ir.MLIRError, match="has K = 64"):
            ir.Module.parse(BROKEN, context)
        texts.append(str(module))
    return texts


def test_threads_load_parse_and_verify_at_once():
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work_in_a_thread, range(8)))
    assert len({text for texts in results for text in texts}) == 1


def test_a_module_of_many_functions_does_not_wait_for_itself():
    context = new_context()
    many = "\n".join(TEXT.replace("@main", f"@f{i}") for i in range(64))
    module = ir.Module.parse(many, context)
    assert module.operation.verify()
    broken = many.replace("[8,64]", "[8,60]")
    with pytest.raises(ir.MLIRError, match="has K = 64"):
        ir.Module.parse(broken, context)


def test_an_operation_keeps_its_own_name():
    _, (weight, *_) = parsed_ops(new_context())
    assert weight.name == weight.operation.name == "sparse_gemm.weight"
    assert weight.attributes["name"].value == "fc.weight"


def test_the_dialect_needs_no_torch():
    code = "import sys, sparseflow.dialect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
