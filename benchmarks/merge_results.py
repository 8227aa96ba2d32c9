"""Join result files of one benchmark that ran in parts: `python benchmarks/merge_results.py OUT FILE…`.

The head is the last file's; `meta.parts` says which command made how many of the rows, and when.
"""

from __future__ import annotations

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
    parts: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for at, result in enumerate(results):
        later = {cell(row) for other in results[at + 1 :] for row in other["rows"]} if cell else set()
        own = [row for row in result["rows"] if not cell or cell(row) not in later]
        alone = {f"{result['meta']['date']}: {result['meta']['command']}": len(own)}
        parts |= result["meta"].get("parts", alone) if len(own) == len(result["rows"]) else alone
        rows += own
    return {"meta": {**results[-1]["meta"], "parts": parts}, "rows": rows}


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise SystemExit(__doc__)
    out, *files = map(Path, argv)
    joined = merged([json.loads(file.read_text(encoding="utf-8")) for file in files])
    out.write_text(json.dumps(joined, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}: {len(joined['rows'])} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
