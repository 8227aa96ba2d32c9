"""SparseFlow's GPU kernel for few rows of x over weights of 4:6 and 6:8 (docs/design/kernels.md)."""

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

MOST_ROWS = 128
"""The most rows of x that it is tried with; it can run more."""


@dataclass(frozen=True)
class Tiles(GpuKernel):
    """Made for 1 to 64 rows, where reading the weight is all the time there is."""

    def candidates(self, problem: Problem, weight: Weight | None = None) -> tuple[Choice, ...]:
        """Return every variant; none for more than `MOST_ROWS` rows."""
        if problem.m is None or problem.m > MOST_ROWS:
            return ()
        import torch

        count: int = torch.ops.sparseflow.pattern_variants(problem.n, problem.k, problem.m)
        return tuple(Choice(self.name, variant) for variant in range(count))

    def run(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply ``x · Wᵀ`` by a variant."""
        import torch

        from sparseflow.runtime.tiled_weight import TiledWeight

        assert isinstance(weight, TiledWeight), "it reads tiles alone"
        y: Tensor = torch.ops.sparseflow.pattern_linear(
            x,
            weight.values,
            weight.positions,
            None,
            None,
            weight.in_features,
            "none",
            weight.block,
            choice.algorithm,
        )
        return y


TILES = Tiles(
    name="tiles",
    code=4,
    device_type="cuda",
    dtypes=("bfloat16", "float16"),
    about="SparseFlow's kernel for few rows on GPUs over 4:6 and 6:8, by variant",
    formats=("4:6", "6:8"),
    varied=True,
)
