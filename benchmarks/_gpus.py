"""The GPUs that a benchmark may spread processes over."""

from __future__ import annotations

import os


def visible_gpus() -> list[str]:
    """The GPUs of this process, each as CUDA_VISIBLE_DEVICES names it for a child."""
    import torch

    count = torch.cuda.device_count()  # by the driver's library: it makes no context
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def gpu_of(index: int, gpus: list[str]) -> str | None:
    """The GPU of one of several processes, dealt in turn; None where there is no choice."""
    return gpus[index % len(gpus)] if len(gpus) > 1 else None
