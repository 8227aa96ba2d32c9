"""Write the documents' tables and figures from benchmarks/results/*.json, or check that they are current.

Usage: readme_tables.py [--check] PATH…

A PATH is a Markdown file, or a folder whose Markdown files at any depth are meant. A table stands between
`<!-- table: NAME -->` and `<!-- end -->`; NAME is a result file without its suffix, or NAME.full for all of
its columns. A single figure stands between `<!-- figure: QUERY -->` and `<!-- end -->` (figures.py). What a
document says in numbers is therefore what a script measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import figures
from tables import TABLES
from tables_choice import NAME as CHOICE
from tables_choice import which_sparsity
from tables_default import NAMES as DEFAULTS
from tables_serving import NAMES as SERVED

MAY_LACK = (*DEFAULTS, *SERVED)
"""Files that are not there where their measurement was not made."""

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
FOLDER = re.compile(r" --(results|limit|deadline|out|logs) \S+")
MOST_NAMED = 2
SOME_M = (1, 4, 16, 64, 256, 1024, 4096, 16384)


def render(text: str) -> str:
    """`text` with every marked table and figure rewritten from its result file."""

    def table(match: re.Match[str]) -> str:
        start, table_name, end = match.groups()
        if table_name == CHOICE:
            return f"{start}{which_sparsity(RESULTS)}{end}"
        name, _, full = table_name.partition(".")
        if name in MAY_LACK and not (RESULTS / f"{name}.json").exists():
            return f"{start}\nNot measured yet.\n\n{end}"
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        meta, rows = result["meta"], result["rows"]
        if not full and name not in MAY_LACK:
            rows = [row for row in rows if row.get("M", 1) in SOME_M or "N" not in row]
        return f"{start}\n{meta['device']}, {_commands(name, meta)}\n{TABLES[name](rows)}{end}"

    return figures.render(MARKED.sub(table, text), RESULTS)


def _commands(name: str, meta: dict[str, Any]) -> str:
    """When and by which commands a file's rows were measured; what only names a folder is left out."""
    runs = [run for part in meta.get("parts") or [{"runs": [meta]}] for run in part["runs"]]
    commands = list(dict.fromkeys(FOLDER.sub("", run["command"]) for run in runs))
    days = sorted({run["date"][:10] for run in runs})
    named = ", ".join(f"`{command}`" for command in commands)
    if len(commands) > MOST_NAMED:
        scripts = ", ".join(f"`{script}`" for script in dict.fromkeys(re.findall(r"\S+\.py", named)))
        named = f"{len(runs)} runs of {scripts}, as `{name}.json` names them"
    return f"{', '.join(days)}: {named}"


def main() -> int:
    """Rewrite or check; exit code 1 when a checked file is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    return max(refresh(page, check=options.check) for page in pages(options.paths))


def pages(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths`, and the Markdown files in their folders at any depth."""
    for path in paths:
        yield from sorted(path.rglob("*.md")) if path.is_dir() else (path,)


def refresh(path: Path, *, check: bool) -> int:
    """Rewrite one file, or say that it is stale; 1 for a stale one."""
    old = path.read_text(encoding="utf-8")
    new = render(old)
    if check and new != old:
        print(f"{path}: its tables differ from benchmarks/results; run `make docs`", file=sys.stderr)
        return 1
    if not check:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
