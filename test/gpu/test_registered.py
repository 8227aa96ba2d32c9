"""A kernel that was registered from Python, called by the native operator on CUDA."""

import pytest
import torch
from gpu_weights import error, inputs, packed, pruned

from sparseflow.runtime import fp8, gpu, ops
from sparseflow.runtime.kernels import Choice, Kernel, registry

N, K, BF16 = 256, 192, torch.bfloat16


class Unpacking(Kernel):
    def product(self, x, values, positions, in_features, choice):
        return x @ gpu.DeviceWeight(values, positions, in_features).dense().T


@pytest.fixture(autouse=True)
def kernel():
    registry.register(Unpacking("unpacking", 64, "cuda", ("bfloat16",)))
    yield
    registry.unregister("unpacking")


@pytest.mark.parametrize("epilogue", ["none", "silu", "silu_gated"])
def test_the_operator_runs_it_where_the_policy_says_so(epilogue):
    weight, policy = pruned(N, K, BF16), [1, Choice("unpacking").code, 9, Choice("dense").code]
    device = packed(weight)
    for m in (1, 8, 9):
        x = inputs(m, K, BF16)
        expected = ops.linear(
            x, device.values, device.positions, None, None, K, epilogue, [1, Choice("dense").code]
        )
        y = ops.linear(x, device.values, device.positions, None, None, K, epilogue, policy)
        assert error(y, expected.double()) < 1e-2
        sentence = gpu.path(device, m, policy, epilogue=epilogue)
        assert sentence.startswith(
            "kernel 64, registered from Python" if m < 9 else "dense: the policy says so"
        )
    assert gpu.prepare(device, [1, 8, 9], policy) == 2


def test_fp8_products_take_none():
    weight = gpu.compress(pruned(N, K, torch.float8_e4m3fn))
    x = inputs(4, K, torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match="registered from Python"):
        fp8.product_fp8(x, weight.values, weight.positions, K, [1, Choice("unpacking").code])
