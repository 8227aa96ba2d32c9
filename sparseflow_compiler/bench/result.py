"""What a benchmark's result says about the run."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from sparseflow.profiling.measure import device_name

_PACKAGES = ("torch", "sparseflow", "transformers", "numpy")


def result(device: torch.device, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows with their meta data, in the form of ``benchmarks/results/*.json``."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    meta = {
        "device": device_name(device),
        "command": " ".join(["sparseflow", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "load": [round(value, 2) for value in os.getloadavg()],
    }
    return {"meta": meta, "rows": list(rows)}
