"""Metadata of benchmark results."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

import torch

from sparseflow.profiling.measure_model import device_name
from sparseflow.support.version import __version__

_PACKAGES = ("torch", "torch-mlir", "transformers", "numpy")


def result(device: torch.device, rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """Wrap rows of `sparseflow bench` with their metadata, in the form of ``benchmarks/results/*.json``."""
    head = run_meta(device_name(device), " ".join(["sparseflow", *sys.argv[1:]]))
    return {"meta": head, "rows": list(rows)}


def run_meta(device: str, command: str) -> dict[str, object]:
    """Return the metadata of a run.

    Args:
        device: the name of the measured device.
        command: the command that repeats it.
    """
    versions = {"python": platform.python_version(), "sparseflow": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": device,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "load": [round(value, 2) for value in os.getloadavg()],
    }
