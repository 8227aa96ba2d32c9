"""The CUDA kernel for few rows, run on the host by an emulation of its instructions: no GPU is needed."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "runtime/csrc/cuda/skinny/emulate.cpp"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_kernel_makes_exact_products_of_small_integers(tmp_path):
    program = tmp_path / "emulate"
    subprocess.run(["g++", "-std=c++20", "-O1", "-w", SOURCE, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) > 10
    assert all(line.startswith("ok ") for line in lines)
