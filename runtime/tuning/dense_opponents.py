"""The dense products that sparse kernels are compared with, in torch's fastest configurations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import ops
from sparseflow.runtime.fp8 import BY_ROWS
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tiled_weight import TiledWeight
from sparseflow.runtime.tuning.layers import Layer
from sparseflow.runtime.tuning.replay import CALLS, Pool, Replay


def dense(layer: Layer, x: Tensor, pool: Pool, calls: int = CALLS) -> list[Replay]:
    """Return the dense product in several configurations, of which the fastest counts."""
    if layer.bf16:
        one = torch.ones((), device=x.device)
        sides = [_fp8(layer, x, pool, calls, (one, one), fast=fast) for fast in (True, False)]
        return [*sides, _by_rows(layer, x, pool, calls)] if len(x) >= BY_ROWS else sides
    return _linear(lambda copy: F.linear(x, layer.dense[copy]), layer.copies, pool, calls)


def dense_bf16(layer: Layer, x: Tensor, pool: Pool, calls: int = CALLS) -> list[Replay]:
    """Return the product in bfloat16 for an fp8 layer; nothing for other dtypes."""
    if not layer.bf16:
        return []
    wide = x.to(torch.bfloat16)
    return _linear(lambda copy: F.linear(wide, layer.bf16[copy]), layer.copies, pool, calls)


def unpacked(layer: Layer, x: Tensor, pool: Pool, calls: int = CALLS) -> Replay:
    """Return the operator's dense path; for fp8, which it doesn't support, the decompression alone."""
    return Replay(functools.partial(_unpack, layer, x), layer.copies, pool, calls)


def _unpack(layer: Layer, x: Tensor, copy: int) -> Tensor:
    weight = layer.packed[copy]
    if layer.bf16:
        return weight.dense()
    policy = [1, Choice("dense").code]
    linear = ops.LINEAR_BLOCKS[weight.block] if isinstance(weight, TiledWeight) else ops.linear
    y: Tensor = linear(x, weight.values, weight.positions, None, None, weight.in_features, "none", policy)
    return y


def _linear(call: Callable[[int], Tensor], copies: int, pool: Pool, calls: int) -> list[Replay]:
    sides = [Replay(call, copies, pool, calls)]
    with _cublaslt():
        sides.append(Replay(call, copies, pool, calls))
    return sides


@contextlib.contextmanager
def _cublaslt() -> Iterator[None]:
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(usual)


def _by_rows(layer: Layer, x: Tensor, pool: Pool, calls: int) -> Replay:
    """Return the product as a dense layer has it, with a scale for each row of x and W."""
    of_x = torch.ones(len(x), 1, device=x.device)
    of_w = torch.ones(1, len(layer.dense[0]), device=x.device)
    return _fp8(layer, x, pool, calls, (of_x, of_w), fast=True)


def _fp8(
    layer: Layer, x: Tensor, pool: Pool, calls: int, scales: tuple[Tensor, Tensor], *, fast: bool
) -> Replay:
    def call(copy: int) -> Tensor:
        return torch._scaled_mm(
            x,
            layer.dense[copy].t(),
            scale_a=scales[0],
            scale_b=scales[1],
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
        )

    return Replay(call, layer.copies, pool, calls)
