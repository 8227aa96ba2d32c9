"""The GPUs that benchmarks spread processes over, and take turns with."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TURNS = "SPARSEFLOW_BENCH_TURNS"
"""The environment variable that names a file which benchmarks on one GPU share."""


def visible_gpus() -> list[str]:
    """The GPUs of this process, each as CUDA_VISIBLE_DEVICES names it for a child."""
    import torch

    count = torch.cuda.device_count()  # by the driver's library: it makes no context
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def gpu_of(index: int, gpus: list[str]) -> str | None:
    """The GPU of one of several processes, dealt in turn; None where there is no choice."""
    return gpus[index % len(gpus)] if len(gpus) > 1 else None


@contextmanager
def a_turn() -> Iterator[None]:
    """Let no benchmark that shares the file of `TURNS` be timed meanwhile: they compile side by side."""
    if not (path := os.environ.get(TURNS)):
        yield
        return
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield
