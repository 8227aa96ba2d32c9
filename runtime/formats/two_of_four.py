"""The base class of all formats of 2:4 weights: two values of each four along K, and their positions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.errors import WeightError
from sparseflow.runtime.formats.base import Format, Part

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.device_weight import DeviceWeight
    from sparseflow.runtime.formats.base import Tensors


@dataclass(frozen=True)
class TwoOfFour(Format):
    """Values ``[N, Kp/2]`` in column order and positions ``[N, ceil(Kp/8)]``, Kp being K rounded up to 4.

    A group's positions are a nibble ``p0 | p1 << 2`` with p0 < p1, even groups in the low nibble of a byte.
    Further parts are vectors with one entry for each row. On CUDA values and positions are padded, and the
    positions follow the values in memory, 1-d and in the tensor cores' order (``gpu.DeviceWeight``).
    """

    part_names: ClassVar[tuple[str, ...]] = ("values", "positions")
    k_unit: ClassVar[int] = 4

    @abstractmethod
    def value_type(self, dtype: str) -> str:
        """Return the element type of the values for a weight of an element type."""

    def row_parts(self) -> tuple[tuple[str, str], ...]:
        """Return the name and element type of each further part, ``[N]``."""
        return ()

    def dense_type(self, dtype: str) -> str:
        """Return the element type of the values; the dense form has them at their positions."""
        return self.value_type(dtype)

    def parts(self, n: int, k: int, dtype: str) -> tuple[Part, ...]:
        """Return values, positions, and the parts of `row_parts`."""
        groups = (k + 3) // 4
        return (
            Part("values", (n, 2 * groups), self.value_type(dtype)),
            Part("positions", (n, (groups + 1) // 2), "ui8"),
            *(Part(name, (n,), kind) for name, kind in self.row_parts()),
        )

    def dense(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the values at their positions, zeros elsewhere; row parts such as scales aren't applied."""
        from sparseflow.runtime import ops, portable

        values, positions = tensors[:2]
        if (device := on_device(tensors, in_features)) is not None:
            unpacked: Tensor = device.dense()
            return unpacked
        if values.itemsize > 1:
            dense: Tensor = ops.unpack_2_4(values, positions, in_features)
            return dense
        # torch's scatter doesn't support all one-byte dtypes, so the values are scattered as bytes.
        raw = portable.unpack_2_4(values.view(positions.dtype), positions, in_features)
        return raw.view(values.dtype)

    def columns(self, tensors: Tensors, first: int, last: int) -> Tensors:
        """Return whole groups of four; nibbles are repacked, as the first group may be odd."""
        from sparseflow.runtime.portable import bytes_to_nibbles, nibbles_to_bytes

        values, positions, *rest = tensors
        nibbles = bytes_to_nibbles(positions)[:, first // 4 : last // 4]
        return values[:, first // 2 : last // 2].contiguous(), nibbles_to_bytes(nibbles), *rest

    def require(self, tensors: Tensors, in_features: int, dtype: str, name: str) -> None:
        """Check like the base class; the operators check CUDA's layout themselves."""
        from sparseflow.runtime import checks

        if on_device(tensors, in_features) is None:
            super().require(tensors, in_features, dtype, name)
        else:
            checks.require_matrix(tensors[0], f"{name}.values")

    def check(self, tensors: Tensors, in_features: int, name: str) -> None:
        """Refuse NaN and Inf, positions that aren't p0 < p1, and values beyond K."""
        values, positions = tensors[:2]
        if values.is_meta or positions.dim() == 1:
            return
        super().check(tensors, in_features, name)
        _require_ordered(positions, name)
        if in_features % 4:
            _require_padding(values, positions, in_features, name)

    def to_device(self, tensors: Tensors, in_features: int) -> Tensors:
        """Convert to CUDA's layout if this build has CUDA kernels."""
        import torch

        values, positions, *rest = tensors
        if not values.is_cuda or positions.dim() != 2 or not torch.ops.sparseflow.cuda_kernels_built():
            return tensors
        from sparseflow.runtime.device_weight import DeviceWeight

        device = DeviceWeight.from_portable(values, positions, in_features)
        return device.values, device.positions, *rest

    def portable(self, tensors: Tensors, in_features: int) -> Tensors:
        """Bring the positions back into the portable order."""
        values, positions, *rest = tensors
        device = on_device(tensors, in_features)
        return values.contiguous(), device.portable_positions() if device else positions, *rest

    def settled(self, tensors: Tensors, in_features: int) -> Tensors:
        """Move a CUDA weight to compact memory and free the rest of its segment.

        torch's allocator frees whole segments only, and packing leaves the weight in a part of one.
        """
        import torch

        device = on_device(tensors, in_features)
        if device is None:
            return tensors
        torch.cuda.empty_cache()
        device = device.settled()
        return device.values, device.positions, *tensors[2:]

    def held_bytes(self, tensors: Tensors, in_features: int) -> int:
        """Return the bytes of the tensors; on CUDA with the padding of N and K."""
        device = on_device(tensors, in_features)
        packed = device.nbytes if device else sum(tensor.nbytes for tensor in tensors[:2])
        return packed + sum(tensor.nbytes for tensor in tensors[2:])


def on_device(tensors: Tensors, in_features: int) -> DeviceWeight | None:
    """Return the weight in CUDA's layout; None if its tensors are in the portable form."""
    values, positions = tensors[:2]
    if not values.is_cuda or positions.dim() != 1:
        return None
    from sparseflow.runtime.device_weight import DeviceWeight

    return DeviceWeight(values, positions, in_features)


def _require_ordered(positions: Tensor, name: str) -> None:
    from sparseflow.runtime import checks

    for start, chunk in checks.row_chunks(positions):
        for half in (0, 1):
            nibble = chunk >> 4 * half & 15
            bad = nibble & 3 >= nibble >> 2
            if bad.any():
                row, byte = bad.nonzero()[0].tolist()
                first, second = int(nibble[row, byte]) & 3, int(nibble[row, byte]) >> 2
                raise WeightError(
                    f"{name}.positions",
                    f"row {start + row}, group {2 * byte + half} stores the positions {first} and {second}; "
                    "the first must be less than the second",
                    "pack the weight with sparseflow.compress_2_4",
                )


def _require_padding(values: Tensor, positions: Tensor, in_features: int, name: str) -> None:
    group = in_features // 4
    nibble = positions[:, group // 2] >> 4 * (group % 2) & 15
    for place, value in ((nibble & 3, values[:, -2]), (nibble >> 2, values[:, -1])):
        bad = (place >= in_features % 4) & (value.float() != 0)
        if bad.any():
            raise WeightError(
                f"{name}.values",
                f"row {int(bad.nonzero()[0])}, group {group} stores a nonzero beyond K={in_features}",
                "pack the weight with sparseflow.compress_2_4",
            )
