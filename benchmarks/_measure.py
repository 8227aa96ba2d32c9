"""The JSON files that benchmarks write."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from sparseflow.bench.result import run_meta

RESULTS = Path(__file__).parent / "results"
PAGES = "GLIBC_TUNABLES"
"""With ``glibc.malloc.hugetlb=1`` tensors lie in huge pages, where the system has them."""


def cpu_name() -> str:
    """The processor as it calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {os.cpu_count()} cores" if named else platform.processor() or platform.machine()


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
