"""`make demo` installs and compiles what it needs, and takes nothing away that `make build` has added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


STAMPS = (".builder", ".dependencies", ".installed", ".installed-demo")
DEMO, WHOLE = "HOST, without CUDA", "ALL, with CUDA"


@pytest.fixture
def checkout(tmp_path):
    """Return what a target would do, after stamps were touched in turn."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt", "tools/requirements.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "V").mkdir()

    def steps(target, *stamps, gpu=""):
        for stamp in STAMPS:
            (tmp_path / "V" / stamp).unlink(missing_ok=True)
        for stamp in stamps:
            (tmp_path / "V" / stamp).touch()
        words = ["make", "-n", target, "VENV=V", f"GPU={gpu}"]
        said = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        signs = {
            "-m venv": "environment",
            "--only dependencies compiler demo": "demo's packages",
            "pyproject.toml > V/requirements.txt": "all packages",
            "SPARSEFLOW_CPU=HOST": DEMO,
            "SPARSEFLOW_CPU=ALL": WHOLE,
        }
        assert said.count("SPARSEFLOW_CUDA=OFF") == said.count("SPARSEFLOW_CPU=HOST")
        assert said.count("SPARSEFLOW_CUDA=AUTO") == said.count("SPARSEFLOW_CPU=ALL")
        lines = said.splitlines()
        return [step for line in lines for sign, step in signs.items() if sign in line]

    return steps


def test_without_a_gpu_the_demo_makes_what_it_needs(checkout):
    assert checkout("demo") == ["environment", "demo's packages", DEMO]
    assert checkout("demo", ".builder", ".installed-demo") == []


def test_a_build_extends_what_the_demo_made(checkout):
    assert checkout("build", ".builder", ".installed-demo") == ["all packages", WHOLE]
    assert checkout("env", ".builder", ".installed-demo") == ["all packages"]


def test_the_demo_takes_the_environment_that_is_there(checkout):
    assert checkout("demo", ".builder", ".dependencies") == ["demo's packages", DEMO]


def test_with_a_gpu_the_demo_compiles_cuda(checkout):
    assert checkout("demo", gpu="1") == ["environment", "all packages", WHOLE]


def test_what_has_cuda_keeps_it(checkout, tmp_path):
    assert checkout("demo", *STAMPS) == []
    later = (tmp_path / "V" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "CMakeLists.txt", (later, later))
    assert checkout("demo", *STAMPS) == [WHOLE]


def test_the_demo_needs_no_developers_tools():
    def needed(*part):
        words = [sys.executable, "tools/requirements.py", "pyproject.toml", *part]
        return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")

    demo, whole = needed("--only", "build", "dependencies", "compiler", "demo"), needed()
    assert set(demo) < set(whole)
    assert not any(item.startswith(("pytest", "mypy", "mkdocs", "vllm")) for item in demo)
    assert any(item.startswith("torch-mlir") for item in demo)
