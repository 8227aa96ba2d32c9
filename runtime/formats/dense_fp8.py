"""The format ``fp8``: a dense weight in e4m3 with a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.row_scaled import RowScaled

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DenseFp8(RowScaled):
    """Each row scaled as loses least (`runtime.fp8.quantize_weight`); small weights keep their precision."""

    name: ClassVar[str] = "fp8"
    element: ClassVar[str] = "f8E4M3FN"

    def rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows in e4m3, rounded to nearest even."""
        from sparseflow.runtime.fp8 import quantize_weight

        values, scales = quantize_weight(rows)
        return values, scales.squeeze(1)
