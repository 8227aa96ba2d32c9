"""The format ``4:6``: four values of each six along K in the weight's dtype, and a code a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparseflow.runtime.formats.all_but_two import AllButTwo


@dataclass(frozen=True)
class Sparse46(AllButTwo):
    """Values in float32, bfloat16 or float16, multiplied by ``sparseflow::linear_4_6``."""

    name: ClassVar[str] = "4:6"
    pattern: ClassVar[str] = "4:6"
    operator: ClassVar[str] = "linear_4_6"
    block: ClassVar[int] = 6
    k_unit: ClassVar[int] = 6
