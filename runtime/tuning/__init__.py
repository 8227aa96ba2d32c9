"""Tuning of the GPU kernels: measuring candidates safely in a child process, and tables of the results.

Public names are imported on first use: the measuring process redirects its standard output before torch is
imported, and points and sweeps need no torch. ``tune`` itself is in ``fill_gpu_table``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.runtime.tuning.fill_gpu_table import TuneResult
    from sparseflow.runtime.tuning.gpu_identity import GpuMachine
    from sparseflow.runtime.tuning.gpu_table import TunedTable, lookup
    from sparseflow.runtime.tuning.point import Candidate, Failure, TunedPoint
    from sparseflow.runtime.tuning.sweep import DEFAULT_M, QUICK_M

__all__ = [
    "DEFAULT_M",
    "QUICK_M",
    "Candidate",
    "Failure",
    "GpuMachine",
    "TuneResult",
    "TunedPoint",
    "TunedTable",
    "lookup",
]

__getattr__, __dir__ = lazy.names(
    globals(),
    {
        "Candidate": "point",
        "DEFAULT_M": "sweep",
        "Failure": "point",
        "GpuMachine": "gpu_identity",
        "QUICK_M": "sweep",
        "TuneResult": "fill_gpu_table",
        "TunedPoint": "point",
        "TunedTable": "gpu_table",
        "lookup": "gpu_table",
    },
)
