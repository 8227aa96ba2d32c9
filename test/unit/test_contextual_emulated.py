"""The CUDA kernels of contextual MLPs on the host, by an emulation of a GPU's threads: no GPU is needed."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "runtime/csrc/cuda/contextual/emulate.cpp"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_kernels_compute_exactly_what_plain_loops_do(tmp_path):
    program = tmp_path / "emulate"
    subprocess.run(["g++", "-std=c++20", "-O1", "-w", SOURCE, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) > 60
    assert all(line.startswith("ok ") for line in lines)
