"""The base class of the kernels for NVIDIA GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel


@dataclass(frozen=True)
class GpuKernel(Kernel):
    """A kernel that reads weights in the GPU layout.

    All of them need cuSPARSELt, even those that don't call it: the layout is cuSPARSELt's, and a tuned table
    holds for one version of it.
    """

    def unsuited_dtype(self, dtype: str) -> str:
        """Return the reason to refuse a dtype that isn't among `dtypes`."""
        return f"on GPUs sparse layers are bfloat16 or float16, not {dtype}"

    def unusable(self, device: str) -> str | None:
        """Return why 2:4 products can't run on a CUDA device of this machine, or None."""
        import torch

        from sparseflow.runtime.gpu import library

        return library.unusable(torch.device(device))
