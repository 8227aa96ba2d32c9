"""Random pruned weights on a GPU, in enough copies that no product reads its weight from the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.runtime import ops
from sparseflow.runtime.checks import row_chunks
from sparseflow.runtime.gpu import compress
from sparseflow.runtime.pattern import Pattern
from sparseflow.runtime.tiled_weight import TiledWeight

if TYPE_CHECKING:
    from sparseflow.runtime.kernels.base import Weight

MAX_COPIES = 512  # a layer whose 512 copies fit in the cache is read from it in a model too


@dataclasses.dataclass(frozen=True)
class Layer:
    """Copies of one weight ``[N, K]``, all of one pattern at the same positions.

    Attributes:
        dense: ``[N, K]`` with its zeros, one tensor for each copy.
        packed: the compressed copies, in the layout of the GPU kernels.
        bf16: for fp8, the same weight in bfloat16; else empty.
    """

    dense: Sequence[Tensor]
    packed: Sequence[Weight]
    bf16: Sequence[Tensor]

    @classmethod
    def random(cls, n: int, k: int, dtype: torch.dtype, pattern: str = "2:4") -> Layer:
        """Return a random layer on the current device."""
        weight = _pruned(n, k, dtype, pattern)
        packed = _packed(weight, pattern)
        cache = torch.cuda.get_device_properties(weight.device).L2_cache_size
        # Each side must evict its own copies, so the smallest form, the packed one, determines their number.
        others = range(max(2, min(MAX_COPIES, 2 * cache // packed.nbytes + 1)) - 1)
        one_byte = dtype.itemsize == 1
        return cls(
            [weight, *(weight.clone() for _ in others)],
            [packed, *(_packed(weight, pattern) for _ in others)],
            [weight.to(torch.bfloat16) for _ in (0, *others)] if one_byte else [],
        )

    @property
    def copies(self) -> int:
        """The number of copies."""
        return len(self.packed)


def inputs(m: int, k: int, dtype: torch.dtype) -> Tensor:
    """Return random x ``[M, K]`` on the current device."""
    return torch.randn(m, k, device="cuda").to(dtype)


def reference(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product x · Wᵀ ``[M, N]`` in float32, without TF32."""
    torch.set_float32_matmul_precision("highest")
    return x.float() @ weight.float().T


def relative_error(y: Tensor, expected: Tensor) -> float:
    """Return ‖y − expected‖ / ‖expected‖, in chunks to save memory; NaN if y has one."""
    wrong = torch.zeros((), dtype=torch.float64, device=y.device)
    whole = torch.zeros_like(wrong)
    for start, chunk in row_chunks(expected):
        rows = y[start : start + chunk.shape[0]].float()
        wrong += (rows - chunk).square().sum(dtype=torch.float64)
        whole += chunk.square().sum(dtype=torch.float64)
    return float((wrong / whole).sqrt())


def _packed(weight: Tensor, pattern: str) -> Weight:
    if pattern == "2:4":
        return compress(weight)
    return TiledWeight.of_dense(weight, Pattern.of(pattern).block)


def _pruned(n: int, k: int, dtype: torch.dtype, pattern: str) -> Tensor:
    weight = torch.randn(n, k, device="cuda")
    block = Pattern.of(pattern).block
    for _, rows in row_chunks(weight):
        rows.copy_(ops.prune_2_4(rows) if pattern == "2:4" else ops.prune_blocks(rows, block))
    return (weight + 0.0).to(dtype)
