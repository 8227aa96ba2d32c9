import os
import random
import subprocess
from pathlib import Path

import pytest
from isolated import warm

LEVELS = ["plain", "avx2", "avx512", "avx512bf16", "amx"]
ASK = """
import torch
from sparseflow.runtime import native
native.load()
print(torch.ops.sparseflow.cpu_isa())
"""


def run(level, *command):
    env = {**os.environ, "SPARSEFLOW_CPU_ISA": level}
    return subprocess.run([*warm(), *command], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("level", LEVELS)
def test_products_match_fp64_on_every_instruction_set(level):
    asked = run(level, "-c", ASK)
    if asked.returncode:
        assert "this machine can run: plain" in asked.stderr
        pytest.skip(f"this machine has no {level}")
    done = run(level, str(Path(__file__).with_name("parity.py")), level, str(random.randrange(2**31)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_instruction_set_is_refused_with_the_choices():
    done = run("sse9", "-c", ASK)
    assert done.returncode != 0
    assert "SPARSEFLOW_CPU_ISA is 'sse9'; of this build this machine can run: plain" in done.stderr
