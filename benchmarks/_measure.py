"""Interleaved timing of two sides, and the JSON files that benchmarks write."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "sparseflow", "torch-mlir", "transformers", "numpy")


def once(run: Callable[..., object], *args: object) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def interleaved(
    sides: Sequence[Callable[[int], object]], *, seconds: float = 1.0, least: int = 7, most: int = 400
) -> list[list[float]]:
    """Time the sides in turns, so that what disturbs the machine disturbs all of them.

    Args:
        sides: each is called with the number of its turn (to rotate its data) and returns when it is done.
        seconds: about how long to measure, all sides together.
        least: fewest turns.
        most: most turns.

    Returns:
        The seconds of every turn, one list for each side.
    """
    for side in sides:
        side(0)
    turn = sum(once(side, 1) for side in sides)
    turns = max(least, min(most, int(seconds / max(turn, 1e-9))))
    times: list[list[float]] = [[] for _ in sides]
    for i in range(turns):
        for side, seen in zip(sides, times, strict=True):
            seen.append(once(side, i))
    return times


def median_us(times: Sequence[float]) -> float:
    """The median in microseconds."""
    return statistics.median(times) * 1e6


def cpu_name() -> str:
    """The processor as it calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {os.cpu_count()} cores" if named else platform.processor() or platform.machine()


def meta(device: str, **more: Any) -> dict[str, Any]:
    """What a result file says about the run that wrote it."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    command = " ".join(["python", *(os.path.relpath(sys.argv[0]), *sys.argv[1:])])
    return {
        "device": device,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "load": [round(v, 2) for v in os.getloadavg()],
        **more,
    }


def write(name: str, head: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write ``benchmarks/results/<name>.json`` and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"meta": head, "rows": rows}, indent=1) + "\n")
    return path
