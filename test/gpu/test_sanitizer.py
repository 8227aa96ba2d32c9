"""compute-sanitizer over a small set of products: no access out of bounds, no race in shared memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BESIDE_NVCC = "/usr/local/cuda/bin/compute-sanitizer"
SANITIZER = shutil.which("compute-sanitizer") or shutil.which(BESIDE_NVCC)
SCRIPT = Path(__file__).with_name("sanitized.py")


@pytest.mark.skipif(SANITIZER is None, reason="no compute-sanitizer on the PATH or in /usr/local/cuda")
@pytest.mark.parametrize(
    ("tool", "script"),
    [
        (["memcheck", "--report-api-errors", "no"], [str(SCRIPT)]),
        (["racecheck", "--racecheck-report", "analysis"], [str(SCRIPT), "own"]),
    ],
)
def test_the_kernels_are_clean(tool, script):
    command = [SANITIZER, "--tool", *tool, "--error-exitcode", "9", sys.executable, *script]
    # Without torch's cache every tensor is an allocation of its own, and so are its bounds.
    alone = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=alone, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "done" in done.stdout.splitlines()
