"""Which way a packed layer runs for which M: measured once for a machine, kept in a table, never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.measurement import MEASURED_M, Measurement
from sparseflow.runtime.dispatch.policy import Policy, Range
from sparseflow.runtime.dispatch.thresholds import Timed, choose_by_thresholds

if TYPE_CHECKING:
    from sparseflow.runtime.dispatch.calibration import calibrate
    from sparseflow.runtime.dispatch.table import Table

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


def __getattr__(name: str) -> Any:
    # Measuring needs torch; choosing doesn't, and stays light.
    if name == "calibrate":
        from sparseflow.runtime.dispatch.calibration import calibrate

        return calibrate
    if name == "Table":
        from sparseflow.runtime.dispatch.table import Table

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
