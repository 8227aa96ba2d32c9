"""cuSPARSELt's products, by algorithm and split-k; each needs a plan from the plan cache."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseflow.runtime.kernels.base import Problem
from sparseflow.runtime.kernels.choice import Choice
from sparseflow.runtime.kernels.gpu import GpuKernel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparseflow.runtime.kernels.base import Weight


@dataclass(frozen=True)
class Cusparselt(GpuKernel):
    """NVIDIA's library."""

    def candidates(self, problem: Problem, weight: Weight | None = None) -> tuple[Choice, ...]:
        """Return every algorithm that the library has for the product."""
        import torch

        from sparseflow.runtime.kernels.outputs import output_dtype

        assert weight is not None, "it is timed with one"
        out = getattr(torch, output_dtype(problem.dtype))
        count: int = torch.ops.sparseflow.cusparselt_algorithms(
            weight.values, problem.k, problem.m, "none", out, False
        )
        return tuple(Choice(self.name, algorithm) for algorithm in range(count))

    def prepare(self, weight: Weight, m: int, choice: Choice) -> None:
        """Have worker threads build the plan; for 16-bit dtypes only, as the operator supports no others."""
        if weight.values.itemsize == 1:
            return
        from sparseflow.runtime import gpu

        gpu.prepare(weight, [m], [1, choice.code], wait=False)

    def run(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply by the algorithm, not through ``linear``, which would fall back to the dense product.

        A product in fp8 is scaled by a kernel of its own, as in a layer: other kernels do that in their end.
        """
        import torch

        y = self.unscaled(x, weight, choice, out)
        if x.itemsize > 1:
            return y
        scaled: Tensor = torch.ops.sparseflow.rescale_fp8(y, *(_ones(size, x.device) for size in y.shape))
        return scaled

    def unscaled(self, x: Tensor, weight: Weight, choice: Choice, out: torch.dtype) -> Tensor:
        """Multiply by the algorithm alone, as where the kernel that reads the result scales it."""
        import torch

        operands = weight.values, weight.positions, None, None, None, weight.in_features
        y: Tensor = torch.ops.sparseflow.cusparselt_linear(
            x, *operands, "none", out, 1.0, choice.algorithm, choice.split_k
        )
        return y


@functools.lru_cache(maxsize=8)
def _ones(size: int, device: torch.device) -> Tensor:
    """Return ones in float32, made once: what is measured must not make them."""
    import torch

    return torch.ones(size, device=device)


CUSPARSELT = Cusparselt(
    name="cusparselt",
    code=2,
    device_type="cuda",
    dtypes=("bfloat16", "float16", "float8_e4m3fn"),
    about="NVIDIA's cuSPARSELt, by algorithm and split-k",
    formats=("2:4", "2:4-fp8"),
    varied=True,
    splits=(0, -1),  # sm_90 takes no factor
)
