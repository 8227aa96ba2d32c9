"""The tuned points of one GPU: the user's own, in the cache folder, and the shipped ones.

A shipped table is a file in ``tables/`` with any name, copied from a user's table:

    sparseflow tune --effort full --shapes FILE --folder DIR
    cp DIR/tuned-*.json runtime/tuning/tables/h200-cusparselt-0.10.0.json
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from sparseflow.errors import DispatchTableError
from sparseflow.runtime.dispatch.store import Store, cache_dir, stamp
from sparseflow.runtime.tuning.gpu_identity import GpuMachine
from sparseflow.runtime.tuning.point import TunedPoint

SHIPPED = Path(__file__).parent / "tables"


class TunedTable(Store[TunedPoint]):
    """Tuned points by (dtype, N, K, M) for one GPU and its software, and for one pattern of weights.

    Attributes:
        machine: the machine that the points hold for; of a shipped table, where they were tuned.
        note: why an existing file was ignored, or how the machine of a shipped table differs from this one,
            or None.
    """

    format = "sparseflow.tuned"
    version = 2  # 2 added the effort of a point

    def __init__(
        self, machine: GpuMachine | None = None, folder: Path | None = None, pattern: str = "2:4"
    ) -> None:
        self.machine = machine or GpuMachine.here()
        super().__init__(self.machine, (folder or cache_dir()) / _name(self.machine, pattern))

    @classmethod
    def shipped(cls, machine: GpuMachine) -> TunedTable | None:
        """Return the table that SparseFlow ships for this GPU and version of cuSPARSELt, or None.

        Driver and torch may differ: algorithms keep their ids, and times hardly change. If several tables
            fit, the one
        with the fewest differences is used. A ``DispatchTableWarning`` reports a damaged file.
        """
        files = [(path, _machine_of(path)) for path in sorted(SHIPPED.glob("*.json"))]
        tables = [_Shipped(path, tuned, machine) for path, tuned in files if _may_fit(tuned, machine)]
        whole = (table for table in tables if not table.damaged)
        return min(whole, key=lambda table: len(table.differences), default=None)

    def _row(self, row: Any) -> TunedPoint:
        return TunedPoint.from_dict(row)


class _Shipped(TunedTable):
    """A file in ``tables/`` that was tuned on ``tuned``; None if it doesn't say properly on what."""

    def __init__(self, path: Path, tuned: GpuMachine | None, here: GpuMachine) -> None:
        self.machine = tuned or here
        Store.__init__(self, self.machine, path)
        self.damaged = self.note is not None
        tuned_with = {name: getattr(self.machine, name) for name in ("driver", "torch")}
        self.differences = [f"{name} {v}" for name, v in tuned_with.items() if v != getattr(here, name)]
        if self.differences and not self.damaged:
            self.note = f"{path.name}: tuned with {', '.join(self.differences)}"

    def save(self) -> bool:
        raise DispatchTableError(
            str(self.path), "a shipped table is not written to", "save to TunedTable(machine)"
        )


def _machine_of(path: Path) -> GpuMachine | None:
    """Return the machine that a file was tuned on; None if it doesn't say so properly."""
    try:
        fields = json.loads(path.read_bytes())["machine"]
        machine = GpuMachine(**fields)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return machine if all(isinstance(text, str) for text in dataclasses.astuple(machine)) else None


def _may_fit(tuned: GpuMachine | None, here: GpuMachine) -> bool:
    """Return whether a file may be of this GPU; a damaged file must be opened to be reported."""
    return tuned is None or tuned.same_algorithms(here)


def trusted(machine: GpuMachine) -> TunedTable | None:
    """Return the shipped table of a GPU itself, or None; it is read once."""
    return _shipped(machine, SHIPPED)


def borrowed(machine: GpuMachine) -> tuple[TunedTable, ...]:
    """Return the shipped tables of other GPUs of the same architecture and cuSPARSELt; they are read once.

    Their fast candidates are worth measuring here, but their times aren't used.
    """
    return _borrowed(machine, SHIPPED)


def lookup(
    dtype: str, n: int, k: int, machine: GpuMachine, *, folder: Path | None = None, pattern: str = "2:4"
) -> list[TunedPoint]:
    """Return the tuned points of a layer: the user's own, and shipped ones for M's that those lack.

    Files are read again only after they changed.

    Args:
        dtype: torch's name of the dtype of x and W.
        n: out features.
        k: in features.
        machine: the GPU to run on.
        folder: the folder of the user's table; the cache folder by default.
        pattern: the weights' pattern; only tables of 2:4 are shipped.

    Returns:
        The points, ascending in M.
    """
    shipped = trusted(machine) if pattern == "2:4" else None
    found = {point.m: point for point in (shipped.layer(dtype, n, k) if shipped else ())}
    folder = folder or cache_dir()
    own = _own(machine, folder, pattern, stamp(folder / _name(machine, pattern)))
    found |= {point.m: point for point in own.layer(dtype, n, k)}
    return [found[m] for m in sorted(found)]


@functools.lru_cache(maxsize=8)
def _shipped(machine: GpuMachine, folder: Path) -> TunedTable | None:
    return TunedTable.shipped(machine)


@functools.lru_cache(maxsize=8)
def _borrowed(machine: GpuMachine, folder: Path) -> tuple[TunedTable, ...]:
    files = [(path, _machine_of(path)) for path in sorted(folder.glob("*.json"))]
    others = [(path, tuned) for path, tuned in files if tuned is not None and tuned.lends_to(machine)]
    tables = [_Shipped(path, tuned, machine) for path, tuned in others]
    return tuple(table for table in tables if not table.damaged)


@functools.lru_cache(maxsize=8)
def _own(machine: GpuMachine, folder: Path, pattern: str, stamp: object) -> TunedTable:
    return TunedTable(machine, folder, pattern)


def _name(machine: GpuMachine, pattern: str) -> str:
    kind = "" if pattern == "2:4" else "-" + pattern.replace(":", "of")
    return f"tuned-{machine.digest()}{kind}.json"
