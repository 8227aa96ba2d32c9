"""Running needs neither the compiler nor transformers, and the checkout never shadows the install."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from isolated import BLOCK, python


def test_the_runtime_multiplies_without_torch_mlir(tmp_path):
    code = BLOCK + textwrap.dedent("""
        import torch
        import sparseflow
        import sparseflow.runtime as runtime

        weight = runtime.prune_24(torch.randn(12, 20))
        x = torch.randn(3, 20)
        got = runtime.sparse_mm(x, runtime.compress_2_4(weight))
        torch.testing.assert_close(got, x @ weight.T, rtol=1e-4, atol=1e-4)
        for name in runtime.__all__:
            getattr(runtime, name)
        import sparseflow.runtime.dispatch.fill_cpu_table
        loaded = [name for name in sys.modules if name.partition(".")[0] in ("torch_mlir", "transformers")]
        assert loaded == [], loaded
    """)
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_sparseflow_brings_no_heavy_package(tmp_path):
    code = """
        import sys
        import sparseflow
        heavy = {"torch", "torch_mlir", "transformers", "peft", "numpy", "rich", "typer"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_policies_are_chosen_and_parsed_without_torch(tmp_path):
    code = """
        import sys
        from sparseflow.runtime.dispatch import Policy
        assert Policy.parse("1:cpu,512:dense").kernel(512) == "dense"
        from sparseflow.runtime.kernels import Problem, registry
        assert registry.find("cusparselt").unsuited(Problem("float16", 64, 64, "cuda")) is None
        assert "torch" not in sys.modules
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_passes_and_what_describes_formats_and_kernels_need_no_torch(tmp_path):
    code = """
        import sys
        from sparseflow.passes.phases import PipelineOptions, phases
        from sparseflow.passes.registry import PASSES, pass_class
        from sparseflow.runtime import formats
        for name in PASSES:
            pass_class(name)
        for name in formats.names():
            phases(PipelineOptions(format=name))
            stored = formats.find(name)
            assert stored.nbytes(64, 64, "bf16") and stored.parts(64, 64, "bf16")
            stored.why_not(64, 64, "f32", "none")
        assert "torch" not in sys.modules
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["passes", "lowering", "runtime", "sparseflow_compiler"])
def test_the_folders_are_no_packages_of_their_own(tmp_path, name):
    done = python(f"import {name}", tmp_path)
    assert done.returncode != 0
    assert f"No module named '{name}'" in done.stderr


def test_the_checkout_does_not_shadow_the_install():
    root = Path(__file__).parents[2]
    done = python("import sparseflow.runtime, sparseflow; print(sparseflow.runtime.__name__)", root)
    assert done.stdout.strip() == "sparseflow.runtime", done.stderr
