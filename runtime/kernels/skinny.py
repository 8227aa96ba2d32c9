"""SparseFlow's GPU kernel for few rows of x, in several variants (docs/design/kernels.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseflow.runtime.kernels.base import Problem
from sparseflow.runtime.kernels.choice import Choice
from sparseflow.runtime.kernels.gpu import GpuKernel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparseflow.runtime.kernels.base import Weight

MOST_ROWS = 256
"""The most rows of x that it is tried with; it can run more."""


@dataclass(frozen=True)
class Skinny(GpuKernel):
    """Made for 1 to 64 rows, where reading the weight is all the time there is.

    Of fp8 it reads the weight only: x stays in 16 bits, and nothing is scaled but the rows of the result.
    """

    def candidates(self, problem: Problem, weight: Weight | None = None) -> tuple[Choice, ...]:
        """Return every variant; none for more than `MOST_ROWS` rows."""
        if problem.m is None or not self.is_tried_with(problem.m):
            return ()
        import torch

        count: int = torch.ops.sparseflow.skinny_variants(problem.n, problem.k, problem.m)
        return tuple(Choice(self.name, variant) for variant in range(count))

    def is_tried_with(self, m: int) -> bool:
        """Return whether there are few rows."""
        return m <= MOST_ROWS

    def taken(self, x: Tensor) -> Tensor:
        """Return x, in bfloat16 if it is in fp8."""
        import torch

        return x.to(torch.bfloat16) if x.itemsize == 1 else x

    def run(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply ``x · Wᵀ`` by a variant."""
        import torch

        y: Tensor = torch.ops.sparseflow.skinny_linear(
            x,
            weight.values,
            weight.positions,
            None,
            None,
            weight.in_features,
            "none",
            choice.algorithm,
        )
        return y


SKINNY = Skinny(
    name="skinny",
    code=3,
    device_type="cuda",
    dtypes=("bfloat16", "float16", "float8_e4m3fn"),
    about="SparseFlow's kernel for few rows on GPUs, by variant",
    formats=("2:4", "2:4-fp8"),
    varied=True,
)
