"""`make demo` compiles CUDA where a GPU is or where it was compiled before, and drops it nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.fixture
def checkout(tmp_path):
    """Return what a target would run, after stamps were touched in turn."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt", "tools/requirements.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "V").mkdir()
    (tmp_path / "V" / ".dependencies").touch()

    def cuda(target, *stamps, gpu=""):
        for stamp in stamps:
            (tmp_path / "V" / stamp).touch()
        words = ["make", "-n", target, "VENV=V", f"GPU={gpu}"]
        said = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        return [line.rpartition("=")[2] for line in said.splitlines() if "SPARSEFLOW_CUDA=" in line]

    return cuda


def test_without_a_gpu_the_demo_leaves_cuda_out_and_a_build_adds_it(checkout):
    assert checkout("demo") == ["OFF"]
    assert checkout("demo", ".installed-cpu") == []
    assert checkout("build") == ["AUTO"]


def test_with_a_gpu_the_demo_compiles_cuda(checkout):
    assert checkout("demo", gpu="1") == ["AUTO"]


def test_what_has_cuda_keeps_it(checkout, tmp_path):
    assert checkout("demo", ".installed", ".installed-cpu") == []
    (tmp_path / "V" / ".installed").touch()
    later = (tmp_path / "V" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "CMakeLists.txt", (later, later))
    assert checkout("demo") == ["AUTO"]
