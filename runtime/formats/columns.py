"""Formats of layers that leave out inputs: 8 bits, K outermost in memory, so that an input saves a whole row.

They aren't for users to name: layers with a threshold have them if the model's format is ``"int8"`` or
``"fp8"``. Portable and saved they are like those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.dense_fp8 import DenseFp8
from sparseflow.runtime.formats.dense_int8 import DenseInt8
from sparseflow.runtime.formats.row_scaled import RowScaled

if TYPE_CHECKING:
    from sparseflow.runtime.formats.base import Tensors


@dataclass(frozen=True)
class Columns(RowScaled):
    """Values ``[N, K]`` whose transpose is contiguous; ``column_linear`` reads that transpose."""

    def to_device(self, tensors: Tensors, in_features: int) -> Tensors:
        """Lay the values out with K outermost."""
        return tensors[0].t().contiguous().t(), tensors[1]

    def portable(self, tensors: Tensors, in_features: int) -> Tensors:
        """Lay the values out row by row."""
        return tensors[0].contiguous(), tensors[1]


@dataclass(frozen=True)
class Int8Columns(Columns, DenseInt8):
    """``int8`` with K outermost."""

    name: ClassVar[str] = "int8-columns"


@dataclass(frozen=True)
class Fp8Columns(Columns, DenseFp8):
    """``fp8`` with K outermost."""

    name: ClassVar[str] = "fp8-columns"
