"""The JSON files that benchmarks write."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparseflow.bench.result import run_meta

RESULTS = Path(__file__).parent / "results"
PAGES = "GLIBC_TUNABLES"
"""With ``glibc.malloc.hugetlb=1`` tensors lie in huge pages, where the system has them."""


def cpu_name() -> str:
    """The processor as it calls itself, and the cores that this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{named[0]}, {cores} cores" if named else platform.processor() or platform.machine()


def pin(cores: Sequence[int]) -> None:
    """Run on these cores alone, one thread on each."""
    if cores:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))


def meta(device: str, **more: Any) -> dict[str, Any]:
    """What a result file says about the run that wrote it."""
    tunables = [f"{PAGES}={os.environ[PAGES]}"] if PAGES in os.environ else []
    command = " ".join([*tunables, "python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return {**run_meta(device, command), **more}


def gpu_name(bench: str, gpu: str) -> str:
    """The result file of a benchmark on this GPU."""
    known = (name.lower() for name in ("H200", "H100") if name in gpu)
    return f"{bench}_{next(known, 'gpu')}"


def write(name: str, head: dict[str, Any], rows: list[dict[str, Any]], folder: Path = RESULTS) -> Path:
    """Write ``<name>.json`` to ``benchmarks/results`` or another folder and return its path."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"meta": head, "rows": rows}, indent=1) + "\n")
    return path
