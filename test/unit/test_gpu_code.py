"""nvcc's flags for a list of GPUs: the front end runs once for each base that the sources tell apart."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[2] / "runtime/csrc/cuda"
CMAKE = shutil.which("cmake")
pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake, which builds the native library")


def flags(tmp_path, architectures, *bases):
    script = tmp_path / "x.cmake"
    call = f'sparseflow_gpu_code(code "{architectures}" {" ".join(bases)})'
    script.write_text(f'include("{CUDA}/gpu_code.cmake")\n{call}\nmessage("${{code}}")\n')
    return subprocess.run([CMAKE, "-P", script], capture_output=True, text=True, timeout=60)


def code(*parts):
    return ";".join(f"--generate-code=arch=compute_{base},code=[{made}]" for base, made in parts)


def test_code_is_assembled_from_the_latest_base(tmp_path):
    done = flags(tmp_path, "80-real;86-real;89-real;90;100-real;120-virtual", "80", "90")
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == code(
        (80, "sm_80"), (80, "sm_86"), (80, "sm_89"), (90, "sm_90"), (90, "compute_90"), (90, "sm_100")
    )  # the PTX for 120 is that of 90, which is there
    assert flags(tmp_path, "89-real", "80", "89", "90").stderr.strip() == code((89, "sm_89"))


@pytest.mark.parametrize(("list_", "word"), [("75-real", "sm_75"), ("90a", "90a"), ("native", "native")])
def test_what_has_no_code_is_refused(tmp_path, list_, word):
    done = flags(tmp_path, list_, "80", "90")
    assert done.returncode != 0
    assert word in done.stderr


def test_the_sources_tell_apart_no_more_than_the_bases():
    """That of 89 is a base of the files alone that convert e4m3."""
    asked = {
        number
        for file in CUDA.rglob("*.cu*")
        for number in re.findall(r"__CUDA_ARCH__\s*[<>=]+\s*(\d+)", file.read_text())
    }
    assert asked == {"890", "900"}
