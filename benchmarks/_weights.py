"""Pruned weights for GPU benchmarks, and how far a product with one is off."""

from __future__ import annotations

import math

import torch

from sparseflow.runtime import ops
from sparseflow.runtime.gpu import DeviceWeight


def copies_of(n: int, k: int, itemsize: int) -> int:
    """How many copies of a weight outgrow the L2 cache, packed."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, math.ceil(2 * cache / (n * k * itemsize * 9 / 16)))


def pruned(n: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    dense = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.05
    weight: torch.Tensor = ops.prune_2_4(dense).to(dtype)
    return weight


def packed(weight: torch.Tensor) -> DeviceWeight:
    values, positions = ops.pack_2_4(weight)
    return DeviceWeight.from_portable(values, positions, weight.shape[1])


def relative_error(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> float:
    rows = slice(0, 256)
    exact = x[rows].float() @ weight.float().T
    return float((y[rows].float() - exact).norm() / exact.norm())
