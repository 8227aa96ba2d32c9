"""Metadata of benchmark results."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from sparseflow.profiling.measure_model import device_name
from sparseflow.support.version import __version__

COMMIT = "SPARSEFLOW_COMMIT"
"""The environment variable with the commit, for machines that have the files without their history."""

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
        "commit": checkout_commit(),
        "versions": versions,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def checkout_commit() -> str:
    """Return the commit of the checkout that this is imported from, with a ``+`` if tracked files differ.

    It is what the environment says, and ``unknown`` for an installed package or without git.
    """
    if said := os.environ.get(COMMIT):
        return said
    own = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(own.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", own.name)  # an environment may lie in somebody's own repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
