"""The table of a CPU's measurements, a JSON file in the user's cache folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparseflow.runtime.dispatch.cpu_identity import Machine
from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.store import DispatchTableWarning, Store, cache_dir

__all__ = ["DispatchTableWarning", "Table", "cache_dir"]


class Table(Store[Measurement]):
    """Measurements by (dtype, N, K, M) for one machine's processor and one weight format.

    Attributes:
        machine: what the measurements hold for.
    """

    format = "sparseflow.dispatch"
    version = 3

    def __init__(
        self, machine: Machine | None = None, folder: Path | None = None, format: str = "2:4"
    ) -> None:
        self.machine = machine or Machine.here()
        kind = "" if format == "2:4" else "-" + format.replace(":", "of")
        name = f"dispatch-{self.machine.digest()}{kind}.json"
        super().__init__(self.machine, (folder or cache_dir()) / name)

    def policy(self, dtype: str, n: int, k: int) -> Policy | None:
        """Return the policy that the measurements of a layer justify, or None without any."""
        rows = self.layer(dtype, n, k)
        return choose(rows) if rows else None

    def _row(self, row: Any) -> Measurement:
        return Measurement.from_dict(row)
