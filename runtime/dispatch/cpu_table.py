"""The measurements of one machine, kept as a JSON file under the user's cache folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparseflow.runtime.dispatch.cpu_identity import Machine
from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.store import DispatchTableWarning, Store, cache_dir, warn

__all__ = ["DispatchTableWarning", "Table", "cache_dir", "warn"]


class Table(Store[Measurement]):
    """Measurements by (dtype, N, K, M) for one machine's processor.

    Attributes:
        machine: what the measurements hold for.
    """

    format = "sparseflow.dispatch"
    version = 3

    def __init__(self, machine: Machine | None = None, folder: Path | None = None) -> None:
        self.machine = machine or Machine.here()
        super().__init__(self.machine, (folder or cache_dir()) / f"dispatch-{self.machine.digest()}.json")

    def policy(self, dtype: str, n: int, k: int) -> Policy | None:
        """The policy that the measurements justify, or None where there are none."""
        rows = self.layer(dtype, n, k)
        return choose(rows) if rows else None

    def _row(self, row: Any) -> Measurement:
        return Measurement.from_dict(row)
