"""A 2:4 weight in the layout of the GPU kernels."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import torch
from torch import Tensor

from sparseflow.runtime import ops as _operators  # noqa: F401  registers torch.ops.sparseflow.*

_LARGE = 10 << 20
"""From this many bytes on, torch's allocator takes a segment of the buffer's size; smaller buffers share
segments of 20 MiB."""


@dataclasses.dataclass(frozen=True)
class DeviceWeight:
    """A 2:4 weight ``[N, K]`` as the GPU kernels read it: two views of one buffer.

    The buffer pads N and K with zeros to multiples of 64, because the kernels work on whole tiles.

    Attributes:
        values: ``[N, Kp/2]``, equal to the portable ``values``; not contiguous if K is padded.
        positions: 1-d uint8, the portable nibbles in the order of the tensor cores (``csrc/cuda/layout.h``),
            padded as well; they follow the padded values in memory.
        in_features: K.
    """

    values: Tensor
    positions: Tensor
    in_features: int

    @classmethod
    def from_portable(cls, values: Tensor, positions: Tensor, in_features: int) -> DeviceWeight:
        """Convert the portable form of a weight on a CUDA device, by one permutation of the positions.

        Args:
            values: ``[N, Kp/2]``, of any dtype of 1, 2 or 4 bytes.
            positions: ``[N, ceil(Kp/8)]`` uint8.
            in_features: K.
        """
        buffer = torch.ops.sparseflow.device_layout(values, positions, in_features)
        return cls.of_buffer(buffer, values.shape[0], in_features, values.dtype)

    def settled(self) -> DeviceWeight:
        """Return a copy that shares no segment of torch's allocator with freed temporaries.

        It is in memory of its own, as `alone` says.
        """
        buffer = alone(self.values)
        return self.of_buffer(buffer, self.values.shape[0], self.in_features, self.values.dtype)

    @classmethod
    def of_buffer(cls, buffer: Tensor, n: int, k: int, dtype: torch.dtype) -> DeviceWeight:
        """Split a buffer into the padded values ``[N, Kp/2]`` of `dtype` and their positions."""
        # The skinny kernel prefetches weights while earlier work in the stream still runs
        # (docs/design/kernels.md), so the buffer must be complete now.
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(buffer.device).synchronize()
        rows, pitch = _padded(n), _padded(k) // 2
        size = rows * pitch * dtype.itemsize
        values = buffer[:size].view(dtype).view(rows, pitch)
        return cls(values[:n, : (k + 3) // 4 * 2], buffer[size:], k)

    def portable_positions(self) -> Tensor:
        """Return the positions in the portable form, ``[N, ceil(Kp/8)]``."""
        positions: Tensor = torch.ops.sparseflow.portable_positions(
            self.values, self.positions, self.in_features
        )
        return positions

    def dense(self) -> Tensor:
        """Return the dense weight ``[N, K]``, with exact zeros where nothing is stored."""
        dense: Tensor = torch.ops.sparseflow.decompress(self.values, self.positions, self.in_features)
        return dense

    @property
    def nbytes(self) -> int:
        """The size of the buffer in bytes, padding included."""
        padded = _padded(self.values.shape[0]) * _padded(self.in_features) // 2
        return padded * self.values.itemsize + self.positions.nbytes


def alone(view: Tensor) -> Tensor:
    """Return a copy of the whole storage of a view, as bytes, that shares its segment with nothing.

    torch's allocator returns whole segments only. A large copy is therefore allocated in a memory pool of its
    own, which is dropped at once: its segment holds nothing else and is freed together with the weight.
    """
    buffer = torch.empty(0, dtype=torch.uint8, device=view.device).set_(view.untyped_storage())
    large = buffer.nbytes >= _LARGE
    with torch.cuda.use_mem_pool(torch.cuda.MemPool(), buffer.device) if large else nullcontext():
        return buffer.clone()


def _padded(size: int) -> int:
    return (size + 63) // 64 * 64
