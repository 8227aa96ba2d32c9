"""Every instruction set of this machine against the gathered product in fp64."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from isolated import warm

from sparseflow.runtime.contextual import ops  # noqa: F401  registers the operators

LEVELS = ["plain", "avx2", "avx512", "avx512bf16", "amx"]
HERE = LEVELS.index(torch.ops.sparseflow.cpu_isa())
# The sets above avx512 have its kernels.
SETS = [level for level in LEVELS[:3] if LEVELS.index(level) <= HERE]


@pytest.mark.parametrize("isa", SETS)
def test_the_kernels_of_an_instruction_set_stay_within_rounding(isa):
    done = subprocess.run(
        [*warm(), str(Path(__file__).with_name("gather.py"))],
        env={**os.environ, "SPARSEFLOW_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
