"""The registry and the files agree, and every pass is documented and tested."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import sparseflow.passes.registry as registry
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.passes.registry import PASSES, pass_class
from sparseflow.tools import passes_doc

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", PASSES)
def test_name_file_and_class_agree(name):
    class_ = pass_class(name)
    assert class_.name == name
    assert PASSES[name] == f"sparseflow.passes.{name.replace('-', '_')}:{name.title().replace('-', '')}"
    assert issubclass(class_, Pass)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_frozen_and_says_what_it_requires_and_ensures(name):
    class_ = pass_class(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        class_().name = "other"
    assert "Requires:" in class_.__doc__
    assert "Ensures:" in class_.__doc__
    assert all(field.metadata["text"] for field in dataclasses.fields(class_))


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_has_lit_tests_of_its_name_with_refusals(name):
    tests = ROOT / "test" / "passes"
    assert (tests / f"{name}.mlir").is_file()
    refusals = (tests / f"{name}-refused.mlir").is_file()
    assert refusals or "sparse_gemm.reason" in (tests / f"{name}.mlir").read_text()


def test_every_file_with_a_pass_is_registered():
    files = {
        path.stem for path in Path(registry.__file__).parent.glob("*.py") if "(Pass)" in path.read_text()
    }
    assert files - {"native_passes"} == {name.replace("-", "_") for name in PASSES}


def test_an_unknown_name_suggests_a_close_one():
    with pytest.raises(PassError, match="Did you mean 'merge-projections'"):
        pass_class("merge-projection")


def test_the_documentation_is_current():
    assert passes_doc.main(["--check", str(ROOT / "docs" / "reference" / "passes.md")]) == 0


def test_the_check_of_the_documentation_can_fail(tmp_path, capsys):
    path = tmp_path / "passes.md"
    assert passes_doc.main(["--check", str(path)]) == 1
    assert passes_doc.main([str(path)]) == 0
    assert passes_doc.main(["--check", str(path)]) == 0
    path.write_text(path.read_text() + "more")
    assert passes_doc.main(["--check", str(path)]) == 1
    assert "make docs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import sparseflow.passes, sparseflow.passes.registry", ["torch", "torch_mlir.ir"]),
        ("from sparseflow.passes import run_pipeline", ["torch"]),
        ("import sparseflow.passes.phases", ["torch", "torch_mlir.ir"]),
        ("from sparseflow.passes.phases import *\npipeline('runtime')", ["torch"]),
        ("from sparseflow.passes.registry import *\nfor n in PASSES: pass_class(n)", ["torch"]),
        ("from sparseflow.tools.opt import main; main(['--help'])", ["torch", "torch_mlir.ir"]),
        ("from sparseflow.tools.opt import main; main(['--list-passes'])", ["torch"]),
        (
            "import io, sys\nfrom sparseflow.tools.opt import main\nmain(['-o', '/dev/null', '/dev/null'])",
            ["torch"],
        ),
    ],
)
def test_importing_stays_light(code, banned):
    script = f"{code}\nimport sys\nsys.exit(any(name in sys.modules for name in {banned}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_of_imports_can_fail():
    script = "import sparseflow.dialect, sys; sys.exit('torch_mlir.ir' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1
