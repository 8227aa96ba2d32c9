"""SparseFlow's GPU kernel for many rows of x in fp8, in several variants (docs/design/kernels.md)."""

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

FEWEST_ROWS = 33
"""The fewest rows of x that it is tried with; it can run fewer."""

HOPPER = (9, 0)
"""The compute capability that has its instructions, ``wgmma`` with a sparse operand."""

UNIT = 16
"""K must be a multiple of this, because the copy engine wants rows of x aligned to as many bytes."""


@dataclass(frozen=True)
class Wide(GpuKernel):
    """Made for 64 rows and more, on sm_90: multiplies fp8 × fp8 and applies both scales in its end."""

    def unusable(self, device: str) -> str | None:
        """Return why the kernel can't run on a CUDA device of this machine, or None."""
        if why := super().unusable(device):
            return why
        import torch

        major, minor = torch.cuda.get_device_capability(torch.device(device))
        if (major, minor) == HOPPER:
            return None
        return f"{self.name} runs on sm_90 only, and this GPU is sm_{major}{minor}"

    def unsuited(self, problem: Problem) -> str | None:
        """Return why this kernel can't run a problem on any machine, or None."""
        if why := super().unsuited(problem):
            return why
        if problem.k % UNIT or problem.n % 8:
            return (
                f"{self.name} needs K to be a multiple of {UNIT} and N of 8, got N={problem.n}, K={problem.k}"
            )
        return None

    def candidates(self, problem: Problem, weight: Weight | None = None) -> tuple[Choice, ...]:
        """Return every variant; none for fewer than `FEWEST_ROWS` rows."""
        if problem.m is None or not self.is_tried_with(problem.m):
            return ()
        import torch

        count: int = torch.ops.sparseflow.wide_variants(problem.n, problem.k, problem.m)
        return tuple(Choice(self.name, variant) for variant in range(count))

    def is_tried_with(self, m: int) -> bool:
        """Return whether there are many rows."""
        return m >= FEWEST_ROWS

    def run(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply ``x · Wᵀ`` by a variant, with scales of one."""
        import torch

        y: Tensor = torch.ops.sparseflow.wide_linear(
            x, weight.values, weight.positions, weight.in_features, choice.algorithm
        )
        return y


WIDE = Wide(
    name="wide",
    code=5,
    device_type="cuda",
    dtypes=("float8_e4m3fn",),
    about="SparseFlow's kernel for many rows in fp8 on Hopper, by variant",
    formats=("2:4-fp8",),
    varied=True,
)
