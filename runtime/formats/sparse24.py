"""The format ``2:4``: the kept values of a weight in its own dtype, and their positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.two_of_four import TwoOfFour

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors


@dataclass(frozen=True)
class Sparse24(TwoOfFour):
    """Values in float32, bfloat16 or float16, multiplied by ``sparseflow::linear``."""

    name: ClassVar[str] = "2:4"
    operator: ClassVar[str] = "linear"

    def value_type(self, dtype: str) -> str:
        """Return the element type of the weight."""
        return dtype

    def pack(self, weight: Tensor) -> Tensors:
        """Pack with the native operator."""
        from sparseflow.runtime import ops

        values, positions = ops.pack_2_4(weight)
        return values, positions
