"""One answer to "which policy" for all who ask: on a GPU whose tables have nothing, pretended here."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sparseflow import validation
from sparseflow.bench import gemm
from sparseflow.compiler import measured_policies
from sparseflow.compiler.options import CompileOptions
from sparseflow.nn import SparseLinear, linear
from sparseflow.pruning import savings
from sparseflow.runtime import Policy, compress_2_4, prune_24
from sparseflow.runtime.gpu import library
from sparseflow.runtime.products import matmul, which
from sparseflow.runtime.tuning.gpu_identity import GpuMachine

N, K = 320, 192
DTYPE, DEVICE = torch.bfloat16, torch.device("cuda", 0)
UNTUNED = (
    f"no table has {N}×{K} bfloat16 for A GPU; "
    "tune it: sf.compile(model), sf.nn.prepare(model) or `sparseflow tune`"
)


def quiet(*_):
    pass


def compiler(mode):
    return measured_policies.shape_policies(
        [(N, K)], DTYPE, DEVICE, CompileOptions(policy=mode, tune="off"), quiet
    )[N, K]


def eager(mode):
    return linear._policies([(N, K)], DEVICE, DTYPE, "2:4", mode, "compressed", "off", quiet)[N, K]


def pruning(asked):
    weight = SimpleNamespace(dtype=DTYPE, device=DEVICE, numel=lambda: N * K, element_size=lambda: 2)
    found = savings.savings([SimpleNamespace(name="a", shape=(N, K), weight=weight)], [1], quiet)
    assert found.unit == "bytes"
    return asked.pop()


def product():
    return Policy.from_ints(matmul._cuda_codes.__wrapped__(N, K, DTYPE, DEVICE, "2:4"))


def bench(asked):
    with contextlib.suppress(RuntimeError, AssertionError):  # there is no such device
        next(gemm._on_gpu(N, K, [1], DTYPE, DEVICE))
    return asked.pop()


def check():
    policy, why = next(validation._ways(SimpleNamespace(shape=(N, K), dtype=DTYPE, device=DEVICE), 1))
    assert why == ""
    return policy


@pytest.fixture
def asked(monkeypatch):
    """What was answered, on a GPU that no table knows."""
    answers = []
    policies = which.policies

    def spied(*args, **options):
        found = policies(*args, **options)
        answers.append(found[N, K])
        return found

    monkeypatch.setattr(library, "unusable", lambda device=None: None)
    here = GpuMachine("A GPU", "9.0", "1", "0.10.0", "2")
    monkeypatch.setattr(GpuMachine, "here", lambda device=None: here)
    monkeypatch.setattr(which, "policies", spied)
    return answers


def test_an_untuned_shape_is_dense_with_its_reason_for_all(asked):
    assert compiler("auto") == eager("auto") == pruning(asked) == UNTUNED


def test_always_sparse_is_sparse_for_all(asked):
    answers = [compiler("sparse"), eager("sparse"), product(), bench(asked), check()]
    assert [str(found) for found in answers] == ["1:cusparselt@0"] * len(answers)


def test_what_no_gpu_runs_sparse_has_the_same_reason_for_all(asked):
    def ask(mode):
        return which.policies([(N, K)], torch.float32, DEVICE, mode=mode)[N, K]

    assert ask("auto") == ask("sparse") == "on GPUs sparse layers are bfloat16 or float16, not float32"


def test_a_layer_says_why_it_is_dense():
    layer = SparseLinear(compress_2_4(prune_24(torch.randn(8, 8))), memory="fast")
    layer.set_policy(UNTUNED)
    assert layer._codes == [1, 0]
    assert layer.reason == UNTUNED
    assert UNTUNED in repr(layer)
    assert layer.weight.dense is not None
    layer.set_policy(Policy.parse("1:cpu"))
    assert layer.reason == ""


def test_on_a_cpu_sparse_is_its_own_kernel_and_fp8_has_one_way():
    cpu = torch.device("cpu")
    assert which.policies([(8, 8)], torch.float32, cpu, mode="sparse") == {(8, 8): Policy()}
    assert which.policies([(8, 8)], torch.float8_e4m3fn, cpu) == {(8, 8): Policy()}
    assert "not float64" in which.policies([(8, 8)], torch.float64, cpu)[8, 8]
    assert "device mps" in which.policies([(8, 8)], torch.float32, torch.device("mps"))[8, 8]
