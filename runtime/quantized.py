"""A packed 2:4 weight in fp8: values in e4m3, and a scale for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import fp8
from sparseflow.runtime.checks import row_chunks
from sparseflow.runtime.packed import PackedWeight, packed_zeros


class QuantizedWeight(PackedWeight):
    """A weight ``[N, K]`` about ``scales[:, None] * unpack()``, for ``sparseflow::linear_fp8``.

    It keeps its dtypes when it is cast, and `dense` is the unpacked weight in e4m3.

    Args:
        values: ``[N, Kp/2]`` in float8_e4m3fn.
        positions: as in `PackedWeight`.
        scales: ``[N]`` in float32, one for each row.
        in_features: K.

    Raises:
        ArgumentError: a shape, dtype or device doesn't fit.
    """

    DTYPES: ClassVar[tuple[torch.dtype, ...]] = (fp8.E4M3,)

    scales: Tensor

    def __init__(self, values: Tensor, positions: Tensor, scales: Tensor, in_features: int) -> None:
        super().__init__(values, positions, in_features, trusted=True)
        if (
            scales.shape != values.shape[:1]
            or scales.dtype != torch.float32
            or scales.device != values.device
        ):
            raise ArgumentError(
                "weight.scales",
                f"expected float32 [{values.shape[0]}] on {values.device}, "
                f"got {scales.dtype} {list(scales.shape)} on {scales.device}",
            )
        self.register_buffer("scales", scales.detach())

    @classmethod
    def empty(
        cls,
        out_features: int,
        in_features: int,
        dtype: torch.dtype = fp8.E4M3,
        device: torch.device | str | None = None,
    ) -> QuantizedWeight:
        """A weight of zeros, to load a state dict into or to `fill`."""
        values, positions = packed_zeros(out_features, in_features, dtype, device)
        return cls(values, positions, torch.ones(out_features, device=device), in_features)

    def unpack(self) -> Tensor:
        """The dense weight ``[N, K]`` in e4m3, not scaled."""
        device = self._on_device()
        return device.dense() if device else fp8.unpack(self.values, self.positions, self.in_features)

    def fill(self, parts: Sequence[PackedWeight]) -> None:
        """Become the rows of other quantised weights, one below the other, on their device."""
        self.scales = torch.cat([part.scales for part in parts if isinstance(part, QuantizedWeight)])
        super().fill(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedWeight:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self.scales = move(self.scales)
        super()._apply(move, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}scales"] = self.scales


def quantize(packed: PackedWeight) -> QuantizedWeight:
    """A packed weight in fp8, each row by the scale that makes its largest magnitude 448.

    Args:
        packed: of a finite weight ``[N, K]``, N and K at least 1.
    """
    values, positions = packed.portable()
    # In pieces of rows: in float32 the whole weight would be twice as large as the dense one.
    pieces = [fp8.quantize_rows(rows) for _, rows in row_chunks(values)]
    quantized, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return QuantizedWeight(quantized, positions, scales.squeeze(1), packed.in_features)


def weight_error(packed: PackedWeight, quantized: QuantizedWeight) -> float:
    """‖W − s·W8‖ / ‖W‖ in the Frobenius norm, over the kept values; 0 for a zero weight.

    Args:
        packed: W.
        quantized: what `quantize` made of it.
    """
    lost = whole = 0.0
    for start, rows in row_chunks(packed.values):
        there = slice(start, start + rows.shape[0])
        wide = rows.double()
        lost += float(
            (wide - quantized.values[there].double() * quantized.scales[there, None]).square().sum()
        )
        whole += float(wide.square().sum())
    return (lost / whole) ** 0.5 if whole else 0.0
