"""The format ``2:4-fp8``: the kept values of a weight in e4m3, their places, and a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.two_of_four import TwoOfFour

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors

TILE = 64
"""The kernels for fp8 take no padded weights."""

TAKES_THE_PLACE_OF = ("f16", "bf16")
"""Element types whose products may be in fp8."""


@dataclass(frozen=True)
class Sparse24Fp8(TwoOfFour):
    """A row's largest magnitude becomes 448; ``sparseflow::linear_fp8`` scales the rows of x so too."""

    name: ClassVar[str] = "2:4-fp8"
    operator: ClassVar[str] = "linear_fp8"
    part_names: ClassVar[tuple[str, ...]] = ("values", "positions", "scales")
    lossy: ClassVar[bool] = True

    def value_type(self, dtype: str) -> str:
        """E4m3."""
        return "f8E4M3FN"

    def row_parts(self) -> tuple[tuple[str, str], ...]:
        """A scale in f32."""
        return (("scales", "f32"),)

    def multiplied(self, dtype: str) -> str:
        """E4m3, whose figures are over the dense product in fp8."""
        return "f8E4M3FN"

    def why_not(self, n: int, k: int, dtype: str, epilogue: str = "none") -> str | None:
        """What the kernels can't: gates, other element types, sizes that would be padded."""
        if epilogue.endswith("_gated"):
            return "it has a gate, which fp8 products don't"
        if dtype not in TAKES_THE_PLACE_OF:
            return f"it is {dtype}; fp8 takes the place of {', '.join(TAKES_THE_PLACE_OF)}"
        if n % TILE or k % TILE:
            return f"N and K must be multiples of {TILE}, got N={n}, K={k}"
        return None

    def load(self) -> None:
        """The operator is in Python."""
        import sparseflow.runtime.fp8  # noqa: F401  registers linear_fp8

    def pack(self, weight: Tensor) -> Tensors:
        """Pack, then quantise row by row; N and K at least 1."""
        import torch

        from sparseflow.runtime import fp8, ops
        from sparseflow.runtime.checks import row_chunks

        values, positions = ops.pack_2_4(weight)
        # In pieces of rows: in float32 the whole weight would be twice as large as the dense one.
        pieces = [fp8.quantize_rows(rows) for _, rows in row_chunks(values)]
        quantized, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return quantized, positions, scales.squeeze(1)

    def unpack(self, tensors: Tensors, in_features: int) -> Tensor:
        """The dense form times the scales."""
        return self.dense(tensors, in_features).float() * tensors[2][:, None]
