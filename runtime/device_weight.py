"""A packed weight in the layout of CUDA."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import torch
from torch import Tensor

from sparseflow.runtime import ops as _operators  # noqa: F401  registers torch.ops.sparseflow.*

# From here on torch's allocator takes a segment of the right size; below, one of 20 MiB for several buffers.
_LARGE = 10 << 20


@dataclasses.dataclass(frozen=True)
class DeviceWeight:
    """A 2:4 weight ``[N, K]`` as the GPU's kernels read it: two views of one buffer.

    In the buffer N and K are padded with zeros to multiples of 64, so that every kernel takes every weight.

    Attributes:
        values: ``[N, Kp/2]``, exactly the portable ``values``; where K is padded, its rows lie apart.
        positions: 1-d uint8, the portable nibbles in the order of the tensor cores (``csrc/cuda/layout.h``),
            padded too, right behind the padded values.
        in_features: K.
    """

    values: Tensor
    positions: Tensor
    in_features: int

    @classmethod
    def from_portable(cls, values: Tensor, positions: Tensor, in_features: int) -> DeviceWeight:
        """From the portable form (``PackedWeight``), on a CUDA device; one permutation of the places.

        Args:
            values: ``[N, Kp/2]`` of any dtype of 1, 2 or 4 bytes.
            positions: ``[N, ceil(Kp/8)]`` uint8.
            in_features: K.
        """
        buffer = torch.ops.sparseflow.device_layout(values, positions, in_features)
        return cls.of_buffer(buffer, values.shape[0], in_features, values.dtype)

    def settled(self) -> DeviceWeight:
        """The same in memory of its own, which shares no segment of torch's allocator with what was freed.

        A large buffer goes to a pool that is given up at once: it gets a segment that nothing else gets, and
        that is free for all as soon as it is.
        """
        buffer = torch.empty(0, dtype=torch.uint8, device=self.values.device).set_(
            self.values.untyped_storage()
        )
        alone = buffer.nbytes >= _LARGE
        with torch.cuda.use_mem_pool(torch.cuda.MemPool(), buffer.device) if alone else nullcontext():
            buffer = buffer.clone()
        return self.of_buffer(buffer, self.values.shape[0], self.in_features, self.values.dtype)

    @classmethod
    def of_buffer(cls, buffer: Tensor, n: int, k: int, dtype: torch.dtype) -> DeviceWeight:
        """Split a buffer that holds the padded values ``[N, Kp/2]`` of `dtype` and their places."""
        # The own kernel reads weights before the work ahead of it in the stream is done (docs/kernels.md).
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(buffer.device).synchronize()
        rows, pitch = _padded(n), _padded(k) // 2
        size = rows * pitch * dtype.itemsize
        values = buffer[:size].view(dtype).view(rows, pitch)
        return cls(values[:n, : (k + 3) // 4 * 2], buffer[size:], k)

    def portable_positions(self) -> Tensor:
        """The places as the portable form has them: ``[N, ceil(Kp/8)]``."""
        places: Tensor = torch.ops.sparseflow.portable_positions(
            self.values, self.positions, self.in_features
        )
        return places

    def dense(self) -> Tensor:
        """The weight ``[N, K]``, with exact zeros where nothing is stored."""
        dense: Tensor = torch.ops.sparseflow.decompress(self.values, self.positions, self.in_features)
        return dense

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, padding included."""
        padded = _padded(self.values.shape[0]) * _padded(self.in_features) // 2
        return padded * self.values.itemsize + self.positions.nbytes


def _padded(size: int) -> int:
    return (size + 63) // 64 * 64
