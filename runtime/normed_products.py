"""Products with root-mean-square norms in their ends, on a GPU of sm_90 with few rows.

    y, x, squares = skinny_before_norm(…)       # y = x · Wᵀ + bias + residual
    z = skinny_after_norm(x, squares, eps, …)   # of rms_norm(y) * weight

The first writes ``y * weight`` beside y, and for each row parts of its sum of squares; the second multiplies
its sums by the row's factor, which those give. So no kernel lies between the two products: a step of decoding
spends more time on one than on reading a row. `execution/norms_in_products.py` forms the calls. The CPU
computes the same, for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.runtime import ops, portable
from sparseflow.runtime.epilogues import finish

skinny_after_norm = torch.ops.sparseflow.skinny_after_norm.default
skinny_before_norm = torch.ops.sparseflow.skinny_before_norm.default

PART = 8
"""Elements of a row whose squares are added up before they are written."""

MOST_ROWS = 32
"""Rows that the second product takes (csrc/cuda/skinny/skinny.h has the same number)."""


def _after(
    x: Tensor,
    squares: Tensor,
    eps: float,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    in_features: int,
    epilogue: str,
    variant: int,
) -> Tensor:
    weight = portable.unpack_2_4(values, positions, in_features).float()
    factor = torch.rsqrt(squares.sum(-1) / in_features + eps).view(*x.shape[:-1], 1)
    return finish(x.float() @ weight.T * factor, bias, epilogue, None).to(x.dtype)


def _before(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight: Tensor,
    in_features: int,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    product = x.float() @ portable.unpack_2_4(values, positions, in_features).float().T
    y = finish(product, bias, "none", residual).to(x.dtype)
    parts = y.float().square().view(-1, y.shape[-1] // PART, PART).sum(-1)
    return y, y * weight, parts


def _fake_after(
    x: Tensor,
    squares: Tensor,
    eps: float,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    in_features: int,
    epilogue: str,
    variant: int,
) -> Tensor:
    found: Tensor = torch.ops.sparseflow.linear(x, values, positions, bias, None, in_features, epilogue, [])
    return found


def _fake_before(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight: Tensor,
    in_features: int,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.ops.sparseflow.linear(x, values, positions, bias, residual, in_features, "none", [])
    parts = x.new_empty((y.numel() // y.shape[-1], y.shape[-1] // PART), dtype=torch.float32)
    return y, torch.empty_like(y), parts


def _register() -> None:
    ops.LIBRARY.impl("skinny_after_norm", _after, "CPU")
    ops.LIBRARY.impl("skinny_before_norm", _before, "CPU")
    torch.library.register_fake(skinny_after_norm, _fake_after)
    torch.library.register_fake(skinny_before_norm, _fake_before)


_register()
