"""Single figures of a document from benchmarks/results/*.json, for `readme_tables.py`.

`<!-- figure: FILE WHERE… FIELD -->…<!-- end -->` is FIELD of the rows of FILE.json that meet every WHERE; of
several rows the least and the greatest value. WHERE is `name=value`, `name>=value` or `name<=value`; a value
with spaces stands in quotes. FIELD may end in a format, such as `cosine:.3f`; without one it is a speed-up.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

MARKED = re.compile(r"(<!-- figure: (.*?) -->).*?(<!-- end -->)")
NOT_MEASURED = "not measured yet"

_CONDITION = re.compile(r"(\w+)(>=|<=|=)(.*)", re.DOTALL)
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda found, wanted: found >= wanted,
    "<=": lambda found, wanted: found <= wanted,
}


def render(text: str, results: Path) -> str:
    """Return `text` with every marked figure rewritten from the files in `results`."""
    return MARKED.sub(lambda match: f"{match[1]}{figure(match[2], results)}{match[3]}", text)


def figure(query: str, results: Path) -> str:
    """Return what a query finds as text, or that it was not measured.

    Raises:
        ValueError: a condition is malformed.
    """
    name, *conditions, field = shlex.split(query)
    field, _, style = field.partition(":")
    path = results / f"{name}.json"
    if not path.exists():
        return NOT_MEASURED
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    chosen = [row for row in rows if field in row and all(_meets(row, each) for each in conditions)]
    values = sorted(row[field] for row in chosen if row[field] is not None)
    if not values:
        return NOT_MEASURED
    ends = dict.fromkeys(format(value, style or ".2f") for value in (values[0], values[-1]))
    return "–".join(ends) + ("" if style else "×")


def _meets(row: Mapping[str, object], condition: str) -> bool:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise ValueError(f"{condition!r} is no condition: write name=value, name>=value or name<=value")
    name, relation, wanted = match.groups()
    found = row.get(name)
    if relation == "=":
        return str(found) == wanted
    return isinstance(found, (int, float)) and _COMPARED[relation](found, float(wanted))
