"""The table of kernels: complete, unique, and the same in Python and in the native library."""

from __future__ import annotations

import pytest
import torch

from sparseflow.errors import ArgumentError
from sparseflow.runtime import ops  # noqa: F401  registers the operators
from sparseflow.runtime.kernels import Choice, Kernel, Problem, by_code, find, names, refusal, registry
from sparseflow.runtime.kernels.codes import FIRST_REGISTERED

CODED = [kernel for kernel in registry.kernels() if kernel.code is not None]


def test_names_and_codes_are_unique_and_lead_back():
    assert [kernel.name for kernel in registry.kernels()] == list(names())
    assert len({kernel.code for kernel in CODED}) == len(CODED)
    for kernel in CODED:
        assert find(kernel.name) is by_code(kernel.code) is kernel


def test_python_and_the_native_library_have_the_same_table():
    native = dict(entry.split("=") for entry in torch.ops.sparseflow.kernels())
    assert {name: int(code) for name, code in native.items()} == {k.name: k.code for k in CODED}


@pytest.mark.parametrize("kernel", CODED, ids=lambda kernel: kernel.name)
def test_python_and_the_native_library_agree_on_what_a_code_may_hold(kernel):
    weight = torch.ops.sparseflow.prune_2_4(torch.randn(8, 8))
    operands = (torch.randn(2, 8), *torch.ops.sparseflow.pack_2_4(weight), None, None, 8, "none")
    for bits, holds in ((1 << 8, kernel.varied), (1 << 24, len(kernel.splits) > 1)):
        if kernel.device_type in ("", "cpu"):
            assert not holds
            with pytest.raises(RuntimeError, match="means nothing for kernel"):
                torch.ops.sparseflow.linear(*operands, [1, kernel.code | bits])
        try:
            Choice.from_code(kernel.code | bits)
        except ArgumentError:
            assert not holds
        else:
            assert holds


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (9, "policy names kernel 9, which the CPU doesn't have"),
        (200, "kernel 200, which this process has not"),
    ],
)
def test_codes_without_a_kernel_are_refused(code, reason):
    weight = torch.ops.sparseflow.prune_2_4(torch.randn(8, 8))
    operands = (torch.randn(2, 8), *torch.ops.sparseflow.pack_2_4(weight), None, None, 8, "none")
    with pytest.raises(RuntimeError, match=reason):
        torch.ops.sparseflow.linear(*operands, [1, code])
    with pytest.raises(ArgumentError, match=f"unknown kernel code {code}"):
        Choice.from_code(code)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("cpu", 70, "the kernel 'cpu' has that name"),
        ("other", 3, f"must be one from {FIRST_REGISTERED} to 255, got 3"),
        ("other", 256, "to 255, got 256"),
        ("other", None, "got None"),
    ],
)
def test_what_cannot_be_registered(name, code, reason):
    with pytest.raises(ArgumentError, match=reason):
        registry.register(Kernel(name, code, "cpu", ("float32",)))
    assert "other" not in names()


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Problem("float32", 64, 64), None),
        (Problem("float64", 64, 64), "cpu multiplies float32, bfloat16, float16, not float64"),
        (Problem("float32", 0, 64), "N and K must be at least 1, got N=0, K=64"),
        (Problem("float32", 64, 64, format="6:8"), None),
        (Problem("float32", 64, 64, format="8:10"), "no kernel for cpu reads weights in 8:10"),
        (Problem("bfloat16", 64, 64, "cuda", format="6:8"), None),
        (Problem("bfloat16", 64, 64, "cuda", format="8:10"), "no kernel for cuda reads weights in 8:10"),
        (Problem("float16", 64, 64, "mps"), "there are no 2:4 kernels for device mps"),
        (Problem("bfloat16", 64, 64, "cuda:1"), None),
        (Problem("float32", 64, 64, "cuda"), "on GPUs sparse layers are bfloat16 or float16, not float32"),
        (Problem("float8_e4m3fn", 64, 64, "cuda", format="2:4-fp8"), None),
        (
            Problem("float8_e4m3fn", 72, 64, "cuda", format="2:4-fp8"),
            "torch's fp8 product needs N and K to be multiples of 16, got N=72, K=64",
        ),
    ],
)
def test_why_a_layer_cannot_be_sparse_anywhere(problem, reason):
    assert refusal(problem, anywhere=True) == reason


def test_what_this_machine_lacks_is_the_reason_here():
    problem = Problem("float16", 64, 64, "cuda")
    reason = find("cusparselt").unusable("cuda")
    assert refusal(problem) == reason
    assert (reason is None) == torch.cuda.is_available()


def test_kernels_of_whole_mlps_are_in_no_policy():
    with pytest.raises(ArgumentError, match="contextual has no algorithm 0"):
        Choice("contextual")
    assert "not single layers" in find("contextual").can_implement(Problem("float32", 8, 8))
