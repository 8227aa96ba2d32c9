"""Dispatch of packed layers: policies by M from measurements that are made once for a machine and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.measurement import MEASURED_M, Measurement
from sparseflow.runtime.dispatch.policy import Policy, Range
from sparseflow.runtime.dispatch.thresholds import Timed, choose_by_thresholds
from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.runtime.dispatch.cpu_table import Table
    from sparseflow.runtime.dispatch.fill_cpu_table import calibrate

__all__ = [
    "MEASURED_M",
    "Measurement",
    "Policy",
    "Range",
    "Table",
    "Timed",
    "calibrate",
    "choose",
    "choose_by_thresholds",
]

# Lazy, because measuring imports torch, which choosing doesn't need.
__getattr__, __dir__ = lazy.names(globals(), {"calibrate": "fill_cpu_table", "Table": "cpu_table"})
