"""fp16 on cuSPARSELt before 0.10: what it does to a process, and that SparseFlow doesn't let it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
EVERY_ALGORITHM = """
import torch
mask = torch.tensor([1.0, 0, 1, 0], device="cuda", dtype=torch.float16).repeat(1024)
c = torch._cslt_compress(torch.randn(28672, 4096, device="cuda", dtype=torch.float16) * mask)
print("searching", flush=True)
for m in (16, 1024):
    x = torch.randn(m, 4096, device="cuda", dtype=torch.float16)
    for algorithm in range(64):
        try:
            torch._cslt_sparse_mm(c, x.T, transpose_result=True, alg_id=algorithm)
            torch.cuda.synchronize()
        except RuntimeError as error:
            print("m", m, "algorithm", algorithm, str(error).splitlines()[0][:60])
            torch.zeros(1, device="cuda").item()  # raises if the context is dead
"""
THROUGH_SPARSEFLOW = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference
from sparseflow.runtime import gpu
gpu.require()
assert gpu.version().startswith("0.8."), gpu.version()
for dtype in (torch.float16, torch.bfloat16):
    w = pruned(512, 1024, dtype); d = packed(w); x = inputs(64, 1024, dtype)
    assert error(linear(x, d), reference(x, w)) < TOLERANCE[dtype]
    assert gpu.prepare(d, [64]) == (dtype == torch.bfloat16)
d, x = packed(pruned(512, 1024, torch.float16)), inputs(64, 1024, torch.float16)
product = torch.ops.sparseflow.cusparselt_linear
try:
    product(x, d.values, d.positions, None, None, None, 1024, "none", torch.float16, 1.0, 0, 0)
except RuntimeError as e:
    assert "before 0.10" in str(e), e
else:
    raise AssertionError("not refused")
print("fine")
"""


def torchs_library() -> Path | None:
    found = Path(torch.__file__).parents[1] / "nvidia/cusparselt/lib/libcusparseLt.so.0"
    return found if found.exists() and torch.backends.cusparselt.version() < 1000 else None


old = pytest.mark.skipif(
    not torch.cuda.is_available() or torchs_library() is None,
    reason="torch carries no cuSPARSELt older than 0.10",
)


def child(script, *args, **env):
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )


@old
def test_some_fp16_algorithm_kills_its_process_and_only_that():
    result = child(EVERY_ALGORITHM)
    print(result.stdout[-500:], result.stderr[-500:])
    assert result.stdout.startswith("searching"), result.stderr
    assert result.returncode != 0
    assert torch.ones(1, device="cuda").item() == 1


@old
def test_sparseflow_runs_fp16_densely_on_the_old_library_and_bf16_sparse():
    result = child(THROUGH_SPARSEFLOW, str(HERE), SPARSEFLOW_CUSPARSELT=str(torchs_library()))
    assert result.stdout.endswith("fine\n"), result.stderr
