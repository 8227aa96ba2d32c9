"""The format ``6:8``: six values of each eight along K in the weight's dtype, and a code a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparseflow.runtime.formats.all_but_two import AllButTwo


@dataclass(frozen=True)
class Sparse68(AllButTwo):
    """Values in float32, bfloat16 or float16, multiplied by ``sparseflow::linear_6_8``."""

    name: ClassVar[str] = "6:8"
    pattern: ClassVar[str] = "6:8"
    operator: ClassVar[str] = "linear_6_8"
    block: ClassVar[int] = 8
    k_unit: ClassVar[int] = 8
