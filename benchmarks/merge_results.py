"""Join result files of one benchmark that ran in parts: `merge_results.py OUT FILE… [--cell FIELD…]`.

The head is the last file's; `meta.parts` says which commands made how many of the rows, and when. Of rows
that have the same values in the fields of `--cell`, the last file's is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

BETWEEN = " | "
"""Between the commands that made some rows together."""


def merged(
    results: list[dict[str, Any]], cell: Callable[[dict[str, Any]], Hashable] | None = None
) -> dict[str, Any]:
    """The rows of all, in order, from files of one device; of rows with one `cell` the last file's."""
    devices = {result["meta"]["device"] for result in results}
    if len(devices) != 1:
        raise SystemExit(f"merge_results: results of different devices: {', '.join(sorted(devices))}")
    parts: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for at, result in enumerate(results):
        later = {cell(row) for other in results[at + 1 :] for row in other["rows"]} if cell else set()
        own = [row for row in result["rows"] if not cell or cell(row) not in later]
        known = result["meta"].get("parts") or {
            f"{result['meta']['date']}: {result['meta']['command']}": len(own)
        }
        # Which rows were replaced isn't known by part.
        parts |= known if len(own) == len(result["rows"]) else {BETWEEN.join(known): len(own)}
        rows += own
    return {"meta": {**results[-1]["meta"], "parts": parts}, "rows": rows}


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
