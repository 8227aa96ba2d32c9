"""The format ``2:4``: the kept values of a weight in its own dtype, and their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.two_of_four import TwoOfFour

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors


@dataclass(frozen=True)
class Sparse24(TwoOfFour):
    """Float32, bfloat16 and float16, for ``sparseflow::linear``."""

    name: ClassVar[str] = "2:4"
    operator: ClassVar[str] = "linear"

    def value_type(self, dtype: str) -> str:
        """The weight's own."""
        return dtype

    def pack(self, weight: Tensor) -> Tensors:
        """By the native operator."""
        from sparseflow.runtime import ops

        values, positions = ops.pack_2_4(weight)
        return values, positions
