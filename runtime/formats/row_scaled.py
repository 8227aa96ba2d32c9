"""The base class of formats of dense weights: each row in 8 bits by a scale of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.base import Format, Part

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors


@dataclass(frozen=True)
class RowScaled(Format):
    """Values ``[N, K]`` of 8 bits and a scale in f32 for each row.

    Only the weight is rounded, x is not: such formats are for products that read the weight for few rows.
    """

    pattern: ClassVar[str] = "dense"
    operator: ClassVar[str] = "linear_weight_only"
    part_names: ClassVar[tuple[str, ...]] = ("values", "scales")
    lossy: ClassVar[bool] = True
    element: ClassVar[str]

    def parts(self, n: int, k: int, dtype: str) -> tuple[Part, ...]:
        """Return values and scales, whatever the weight's element type."""
        return Part("values", (n, k), self.element), Part("scales", (n,), "f32")

    def multiplied(self, dtype: str) -> str:
        """Return the element type of the values."""
        return self.element

    def dense_type(self, dtype: str) -> str:
        """Return the element type of the values, which are dense already."""
        return self.element

    def load(self) -> None:
        """Import the Python module that registers the operator."""
        import sparseflow.runtime.weight_only  # noqa: F401  registers linear_weight_only

    def pack(self, weight: Tensor) -> Tensors:
        """Round each row by its own scale; N and K are at least 1."""
        import torch

        from sparseflow.runtime.checks import row_chunks

        # In chunks of rows: the whole weight in float32 would take twice the memory of the dense one.
        pieces = [self.rounded(rows) for _, rows in row_chunks(weight)]
        values, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return values, scales

    @abstractmethod
    def rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values ``[n, K]`` and scales ``[n]`` of some rows."""

    def dense(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the values."""
        return tensors[0]

    def unpack(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the values times the scales."""
        return tensors[0].float() * tensors[1][:, None]

    def columns(self, tensors: Tensors, first: int, last: int) -> Tensors:
        """Return the values of the columns and the scales of the whole rows."""
        return tensors[0][:, first:last].contiguous(), tensors[1]
