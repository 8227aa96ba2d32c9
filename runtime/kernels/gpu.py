"""The base class of the kernels for NVIDIA GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel, Problem

FP8_GPU = (8, 9)
"""Compute capability from which on tensor cores multiply fp8."""


@dataclass(frozen=True)
class GpuKernel(Kernel):
    """A kernel that reads weights in the GPU layout.

    All of them need cuSPARSELt, even those that don't call it: the layout is cuSPARSELt's, and a tuned table
    holds for one version of it.
    """

    def can_implement(self, problem: Problem) -> str | None:
        """Return None if the kernel can run a problem on this machine, else why it can't.

        A layer in fp8 is multiplied in fp8 for some numbers of rows, whatever runs it for the others.
        """
        why = super().can_implement(problem)
        return why or (_no_fp8(problem.device) if problem.dtype == "float8_e4m3fn" else None)

    def unsuited_dtype(self, dtype: str) -> str:
        """Return the reason to refuse a dtype that isn't among `dtypes`."""
        return f"on GPUs sparse layers are bfloat16 or float16, not {dtype}"

    def unusable(self, device: str) -> str | None:
        """Return why 2:4 products can't run on a CUDA device of this machine, or None."""
        import torch

        from sparseflow.runtime.gpu import library

        return library.unusable(torch.device(device))


def _no_fp8(device: str) -> str | None:
    import torch

    capability = torch.cuda.get_device_capability(torch.device(device))
    if capability >= FP8_GPU:
        return None
    return "{} is sm_{}{}, and tensor cores for fp8 begin with sm_{}{}".format(
        torch.cuda.get_device_name(torch.device(device)), *capability, *FP8_GPU
    )
