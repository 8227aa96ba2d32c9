"""A weight that keeps all but two of each block of columns, in the layout of the GPU kernels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sparseflow.runtime import ops as _operators
from sparseflow.runtime.checks import row_chunks
from sparseflow.runtime.device_weight import alone

_TILE_BYTES = {6: 8704, 8: 12928}
"""The bytes of 64 rows and 16 blocks, by the columns of a block."""


@dataclasses.dataclass(frozen=True)
class TiledWeight:
    """A weight ``[N, K]`` of 4:6 or 6:8 as the GPU kernel reads it: two views of one buffer.

    The buffer holds tiles of 64 rows × 16 blocks, N and K padded with zeros (``csrc/cuda/patterns/tile.h``).

    Attributes:
        values: ``[N, W]`` of the weight's dtype: the tiles of N rows, in N equal shares of their bytes.
        positions: 1-d uint8, the rest of the buffer; empty if N is a multiple of 64.
        in_features: K.
        block: the columns of a block.
    """

    values: Tensor
    positions: Tensor
    in_features: int
    block: int

    @classmethod
    def from_portable(cls, values: Tensor, positions: Tensor, in_features: int, block: int) -> TiledWeight:
        """Convert the portable form of a weight on a CUDA device.

        Args:
            values: ``[N, (block−2)·b]`` of 16 bits, with b = ceil(K/block).
            positions: the codes, ``[N, ceil(b·bits/8)]`` uint8.
            in_features: K.
            block: the columns of a block.
        """
        buffer = torch.ops.sparseflow.pattern_tiles(values, positions, in_features, block)
        return cls.of_buffer(buffer, values.shape[0], in_features, block, values.dtype)

    @classmethod
    def of_dense(cls, weight: Tensor, block: int) -> TiledWeight:
        """Convert a weight ``[N, K]`` of 16 bits on a CUDA device that keeps all but two of each block."""
        packed = [_operators.pack_blocks(rows, block) for _, rows in row_chunks(weight)]
        values, positions = (torch.cat(parts) for parts in zip(*packed, strict=True))
        return cls.from_portable(values, positions, weight.shape[1], block)

    @classmethod
    def of_buffer(cls, buffer: Tensor, n: int, k: int, block: int, dtype: torch.dtype) -> TiledWeight:
        """Split a buffer of tiles."""
        # The kernel prefetches weights while earlier work in the stream still runs, so the buffer must be
        # complete now.
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(buffer.device).synchronize()
        pitch = -(-k // (16 * block)) * _TILE_BYTES[block] // 64
        return cls(buffer[: n * pitch].view(dtype).view(n, pitch // 2), buffer[n * pitch :], k, block)

    def settled(self) -> TiledWeight:
        """Return a copy that shares no segment of torch's allocator with freed temporaries."""
        buffer = alone(self.values)
        return self.of_buffer(buffer, self.values.shape[0], self.in_features, self.block, self.values.dtype)

    def portable(self) -> tuple[Tensor, Tensor]:
        """Return values and codes in the portable form."""
        values, positions = torch.ops.sparseflow.pattern_portable(
            self.values, self.positions, self.in_features, self.block
        )
        return values, positions

    def dense(self) -> Tensor:
        """Return the dense weight ``[N, K]``, with exact zeros where nothing is stored."""
        dense: Tensor = torch.ops.sparseflow.pattern_dense(
            self.values, self.positions, self.in_features, self.block
        )
        return dense

    @property
    def nbytes(self) -> int:
        """The size of the buffer in bytes, padding included."""
        return self.values.nbytes + self.positions.nbytes
