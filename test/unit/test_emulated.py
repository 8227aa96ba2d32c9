"""The CUDA kernels run on the host, by an emulation of a GPU's threads and instructions: no GPU is needed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "runtime/csrc/cuda"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize(
    ("source", "cases", "timeout"),
    [
        ("skinny/emulate.cpp", 10, 120),
        ("contextual/emulate.cpp", 60, 300),
        ("contextual/emulate_columns.cpp", 15, 120),
        ("patterns/emulate.cpp", 15, 20),
        ("rows/emulate.cpp", 25, 20),
    ],
)
def test_the_kernels_compute_exactly_what_plain_loops_do(source, cases, timeout, tmp_path):
    program = tmp_path / "emulate"
    source = KERNELS / source
    flags = os.environ.get("CXXFLAGS", "").split()  # of a sanitizer, see tools/sanitize.sh
    # A fortified longjmp takes a jump between stacks for an error.
    words = ["g++", "-std=c++20", "-O1", "-w", *flags, "-U_FORTIFY_SOURCE", source, "-o", program]
    subprocess.run(words, check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=timeout)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) > cases
    assert all(line.startswith("ok ") for line in lines)
