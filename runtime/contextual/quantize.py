"""Quantise weights to int8 with a scale for each row that maps its largest magnitude to 127."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.checks import require_finite, row_chunks

LARGEST = 127.0


def rows(weight: Tensor, dtype: str, name: str) -> tuple[Tensor, Tensor]:
    """Quantise a weight ``[n, K]`` to int8 ``[n, K]`` and scales ``[n]`` float32.

    Args:
        weight: floating.
        dtype: "int8".
        name: how errors call the weight.

    Raises:
        ArgumentError: another dtype. WeightError: NaN or Inf.
    """
    if dtype != "int8":
        raise ArgumentError("dtype", f"expected 'int8', got {dtype!r}")
    require_finite(weight, name)
    values = torch.empty_like(weight, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    for start, chunk in row_chunks(weight):
        there = slice(start, start + len(chunk))
        wide = chunk.float()
        largest = wide.abs().amax(1) if wide.shape[1] else wide.new_zeros(len(wide))
        scale = largest / LARGEST
        scales[there] = torch.where(
            scale > 0, scale, 1.0
        )  # a row of zeros, or of values that underflow to zero
        values[there] = (wide / scales[there, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return values, scales
