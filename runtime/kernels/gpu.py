"""What the kernels for NVIDIA GPUs have in common."""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel


@dataclass(frozen=True)
class GpuKernel(Kernel):
    """A kernel that reads weights in the layout of CUDA.

    That cuSPARSELt is there and lays out weights as SparseFlow does is checked for all of them: the tuned
    tables are of one version of it, and the layout is its own.
    """

    def unsuited_dtype(self, dtype: str) -> str:
        """Return what to say of a dtype that is not among its own."""
        return f"on GPUs sparse layers are bfloat16 or float16, not {dtype}"

    def unusable(self, device: str) -> str | None:
        """Return why 2:4 products can't run on a CUDA device of this machine, or None."""
        import torch

        from sparseflow.runtime.gpu import library

        return library.unusable(torch.device(device))
