"""Join result files of one benchmark that ran in parts: `merge_results.py OUT FILE… [--cell FIELD…]`.

The head is the last file's; `meta.parts` says which runs made how many of the rows: when, and the command. Of
rows that have the same values in the fields of `--cell`, the last file's is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any


def merged(
    results: list[dict[str, Any]], cell: Callable[[dict[str, Any]], Hashable] | None = None
) -> dict[str, Any]:
    """The rows of all, in order, from files of one device; of rows with one `cell` the last file's."""
    devices = {result["meta"]["device"] for result in results}
    if len(devices) != 1:
        raise SystemExit(f"merge_results: results of different devices: {', '.join(sorted(devices))}")
    parts: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for at, result in enumerate(results):
        later = {cell(row) for other in results[at + 1 :] for row in other["rows"]} if cell else set()
        own = [row for row in result["rows"] if not cell or cell(row) not in later]
        parts += _parts(result["meta"], len(own), all_kept=len(own) == len(result["rows"]))
        rows += own
    return {"meta": {**results[-1]["meta"], "parts": parts}, "rows": rows}


def _parts(meta: dict[str, Any], rows: int, *, all_kept: bool) -> list[dict[str, Any]]:
    """Which runs made the rows of a file that are kept; by its own parts only while all are."""
    known = meta.get("parts") or [
        {"runs": [{name: meta[name] for name in ("date", "command")}], "rows": rows}
    ]
    if all_kept:
        return list(known)
    return [{"runs": [run for part in known for run in part["runs"]], "rows": rows}] if rows else []


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--cell", nargs="+", metavar="FIELD", default=[])
    args = parser.parse_args(argv)

    def cell(row: dict[str, Any]) -> Hashable:
        return tuple(row.get(field) for field in args.cell)

    results = [json.loads(file.read_text(encoding="utf-8")) for file in args.files]
    joined = merged(results, cell if args.cell else None)
    args.out.write_text(json.dumps(joined, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.out}: {len(joined['rows'])} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
