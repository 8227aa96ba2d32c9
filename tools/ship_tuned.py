"""Put tuned points of the user's tables into the shipped one of their GPU: `runtime/tuning/tables`.

    python tools/ship_tuned.py DIR/tuned-*.json

A fully tuned point takes the place of any that is shipped, a quick one of quick ones alone. A GPU that has no
shipped table gets one, named after it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sparseflow.runtime.tuning import GpuMachine, TunedPoint, TunedTable
from sparseflow.runtime.tuning.gpu_table import SHIPPED


def main(argv: Sequence[str]) -> int:
    """Merge each table and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, nargs="+", help="a user's table")
    parser.add_argument("--tables", type=Path, default=SHIPPED, help="the folder of the shipped ones")
    options = parser.parse_args(argv)
    for path in options.table:
        print(merge(path, options.tables))
    return 0


def merge(path: Path, folder: Path) -> str:
    """Put a table's points into the shipped table of its GPU, and say how many there are."""
    document = json.loads(path.read_text())
    tuned = GpuMachine(**document["machine"])
    target = shipped_file(tuned, folder)
    machine = tuned
    if target.exists():
        machine = GpuMachine(**json.loads(target.read_text())["machine"])
    table = Shipping(machine, target)
    had = {(point.dtype, point.n, point.k, point.m): point for point in table}
    new = []
    for row in document["rows"]:
        point = TunedPoint.from_dict(row)
        before = had.get((point.dtype, point.n, point.k, point.m))
        if before is None or point.effort == "full" or before.effort == "quick":
            new.append(point)
    table.add(new)
    table.save()
    target.with_suffix(".lock").unlink(missing_ok=True)
    return f"{path}: {len(new)} of {len(document['rows'])} points into {target}, which has {len(table)}"


def shipped_file(machine: GpuMachine, folder: Path) -> Path:
    """The shipped file of a GPU and version of cuSPARSELt: the one that is there, or a new one."""
    for path in sorted(folder.glob("*.json")):
        if GpuMachine(**json.loads(path.read_text())["machine"]).same_algorithms(machine):
            return path
    name = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower().removeprefix("nvidia ")).strip("-")
    return folder / f"{name}-cusparselt-{machine.cusparselt}.json"


class Shipping(TunedTable):
    """A table in a file of any name."""

    def __init__(self, machine: GpuMachine, path: Path) -> None:
        super().__init__(machine, path.parent)
        self.path = path
        self.refresh()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
