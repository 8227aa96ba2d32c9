"""Measures what cuSPARSELt's algorithms are worth on this GPU, safely, and keeps it in a table.

The public names load on first use: the process that measures moves its standard output away before torch
is imported, and points and sweeps need no torch. ``tune`` itself is in the module of its name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseflow.runtime.tuning.machine import GpuMachine
    from sparseflow.runtime.tuning.point import Candidate, Failure, TunedPoint
    from sparseflow.runtime.tuning.sweep import DEFAULT_M
    from sparseflow.runtime.tuning.table import TunedTable, lookup
    from sparseflow.runtime.tuning.tune import TuneResult

__all__ = [
    "DEFAULT_M",
    "Candidate",
    "Failure",
    "GpuMachine",
    "TuneResult",
    "TunedPoint",
    "TunedTable",
    "lookup",
]

_HOME = {
    "Candidate": "point",
    "DEFAULT_M": "sweep",
    "Failure": "point",
    "GpuMachine": "machine",
    "TuneResult": "tune",
    "TunedPoint": "point",
    "TunedTable": "table",
    "lookup": "table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
