"""What ends or breaks a process is tried in a child."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BEGIN = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference
from sparseflow.runtime import gpu
"""
EXIT = """
gpu.require()
device = packed(pruned(512, 1024, torch.float16))
gpu.prepare(device, range(8, 2000, 8), wait=False)
assert gpu.stats().pending > 0
print("fine", flush=True)
"""
RESET = """
import ctypes
gpu.require()
device, x = packed(pruned(512, 1024, torch.bfloat16)), inputs(64, 1024, torch.bfloat16)
gpu.prepare(device, [64, 100])
linear(x, device)
torch.cuda.synchronize()
path = next(line.split()[-1] for line in open("/proc/self/maps") if "libcudart.so" in line)
assert ctypes.CDLL(path).cudaDeviceReset() == 0
gpu.reset(device_was_reset=True)
assert gpu.stats().plans == gpu.stats().pinned == 0
print("fine", flush=True)
"""
# 20 MiB are one segment of torch's allocator, and the bucket of 20479 rows reads one row more than there are.
END_OF_MEMORY = """
gpu.require()
weight = pruned(256, 512, torch.bfloat16)
device = packed(weight)
gpu.prepare(device, [20479])
whole = torch.empty(20480, 512, device="cuda", dtype=torch.bfloat16).normal_()
x = whole[1:]
assert gpu.path(device, 20479) == "cusparselt, algorithm 0"
assert error(linear(x, device), reference(x, weight)) < TOLERANCE[torch.bfloat16]
print("fine", flush=True)
"""


NO_LIBRARY = """
from sparseflow.runtime.kernels import Choice
assert "nowhere" in gpu.unusable()
weight = pruned(203, 452, torch.float16)
device, policy = packed(weight), [1, Choice("skinny").code, 64, Choice("cusparselt", 0).code]
assert gpu.prepare(device, [8, 16, 100], policy) == 2
for m, path in ((8, "skinny, variant 0"), (100, "dense: ")):
    x = inputs(m, 452, torch.float16)
    assert error(linear(x, device, policy=policy), reference(x, weight)) < TOLERANCE[torch.float16]
    assert gpu.path(device, m, policy).startswith(path), gpu.path(device, m, policy)
print("fine", flush=True)
"""


def child(script, **env):
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script, str(HERE)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
    )


def test_a_process_ends_while_plans_are_built():
    result = child(EXIT)
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr


def test_plans_can_be_forgotten_after_a_device_reset():
    result = child(RESET)
    assert result.stdout == "fine\n", result.stderr


def test_the_own_kernel_needs_no_cusparselt():
    result = child(NO_LIBRARY, SPARSEFLOW_CUSPARSELT="/nowhere/libcusparseLt.so.0")
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr


ALLOCATORS = ["expandable_segments:False", "expandable_segments:True", "backend:cudaMallocAsync"]


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_rows_that_a_bucket_adds_are_not_read_beyond_the_end_of_memory(allocator):
    result = child(END_OF_MEMORY, PYTORCH_CUDA_ALLOC_CONF=allocator)
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr
