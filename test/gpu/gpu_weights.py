"""Weights and references that the GPU tests share."""

import torch
import torch.nn.functional as F

from sparseflow.runtime import gpu, ops

E4M3 = torch.float8_e4m3fn
TOLERANCE = {
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float32: 6e-4,
    torch.int32: 0.0,
    torch.int8: 0.0,
    E4M3: 4e-2,
}


def pruned(n, k, dtype, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    if dtype == torch.int8:
        dense = torch.randint(-9, 10, (n, k), generator=generator, device="cuda").float()
    else:
        dense = torch.randn(n, k, generator=generator, device="cuda") * 0.1
    return (ops.prune_2_4(dense) + 0.0).to(dtype)


def inputs(m, k, dtype, seed=1):
    generator = torch.Generator("cuda").manual_seed(seed)
    if dtype == torch.int8:
        return torch.randint(-9, 10, (m, k), generator=generator, device="cuda").to(dtype)
    return torch.randn(m, k, generator=generator, device="cuda").to(dtype)


def packed(weight):
    """The weight in CUDA's layout, through the portable form (no library involved)."""
    values, positions = ops.pack_2_4(weight)
    return gpu.DeviceWeight.from_portable(values, positions, weight.shape[1])


ACTIVATIONS = {
    "none": lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def reference(x, weight, bias=None, residual=None, epilogue="none"):
    y = x.double() @ weight.double().T
    y = ACTIVATIONS[epilogue](y if bias is None else y + bias.double())
    return y if residual is None else y + residual.double()


def error(y, expected):
    assert y.shape == expected.shape
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-30))


def linear(x, weight, bias=None, residual=None, epilogue="none", policy=(), dense=None):
    values, positions, k = weight.values, weight.positions, weight.in_features
    return ops.linear(x, values, positions, bias, residual, k, epilogue, list(policy), dense)
