"""What the plan cache promises threads, graphs and forks, over a made-up library (plan_cache.cpp)."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "runtime" / "csrc"
CASES = re.findall(r"^  CASE\((\w+)\);", (HERE / "plan_cache.cpp").read_text(), re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan_cache") / "program"
    headers = Path(torch.__file__).parent / "include"
    sources = [HERE / "plan_cache.cpp", CSRC / "cuda" / "cache.cpp", CSRC / "cuda" / "plan.cpp"]
    flags = ["-std=c++20", "-pthread", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{CSRC}"]
    subprocess.run(["c++", *flags, "-isystem", headers, *sources, "-o", path], check=True)
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_plan_cache(program, case):
    result = subprocess.run([program, case], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
