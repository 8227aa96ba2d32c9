"""GELU after products whose kernel doesn't apply it, which ours approximates, beside torch's in fp64."""

import pytest
import torch
from gpu_weights import ACTIVATIONS, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice

# One rounding of y before the activation and one after it.
BOUND = {torch.bfloat16: 5e-3, torch.float16: 7e-4}
POLICIES = {"cusparselt": [1, Choice("cusparselt", 0).code], "dense": [1, Choice("dense").code]}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epilogue", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("n", [512, 508])  # of 508 only some products are whole eights
def test_is_torchs_gelu(n, epilogue, dtype, policy):
    k, ms, codes = 512, (1, 3, 200, 1000), POLICIES[policy]
    weight, bias = pruned(n, k, dtype), inputs(1, n, dtype, seed=2)[0]
    device = packed(weight)
    gpu.prepare(device, ms, codes, bias=True, epilogue=epilogue)
    for m in ms:
        x = inputs(m, k, dtype, seed=m) * 4  # sums from far below zero to far above
        y = linear(x, device, bias, epilogue=epilogue, policy=codes)
        assert error(y, ACTIVATIONS[epilogue](reference(x, weight, bias))) < BOUND[dtype], m


@pytest.mark.parametrize("epilogue", ["gelu", "gelu_tanh"])
def test_infinity_and_nan_stay(epilogue):
    weight = pruned(64, 64, torch.bfloat16)
    bias = torch.tensor([float("inf"), float("nan"), *[0.0] * 62]).bfloat16().cuda()
    device, x = packed(weight), torch.zeros(16, 64).bfloat16().cuda()
    y = linear(x, device, bias, epilogue=epilogue, policy=POLICIES["dense"])
    assert y[:, 0].isposinf().all()
    assert y[:, 1].isnan().all()
    assert not y[:, 2:].any()
