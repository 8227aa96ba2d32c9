"""The dense products that sparse kernels are compared with, in torch's fastest configurations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import ops
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tiled_weight import TiledWeight
from sparseflow.runtime.tuning.layers import Layer
from sparseflow.runtime.tuning.replay import CALLS, Pool, Replay


def dense(layer: Layer, x: Tensor, pool: Pool, calls: int = CALLS) -> list[Replay]:
    """Return the dense product in several configurations, of which the fastest counts."""
    if layer.bf16:
        return [_fp8(layer, x, pool, calls, fast) for fast in (True, False)]
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


def _fp8(layer: Layer, x: Tensor, pool: Pool, calls: int, fast: bool) -> Replay:
    one = torch.ones((), device=x.device)

    def call(copy: int) -> Tensor:
        return torch._scaled_mm(
            x,
            layer.dense[copy].t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
        )

    return Replay(call, layer.copies, pool, calls)
