"""The pass ``mark-patterns``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.weight import PATTERN
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.option_text import Table, parse_table, read_table
from sparseflow.runtime.formats import sparse_names

_FORMAT = 'Write {"layer.weight": "6:8"}, the name of a format that stores the pattern.'


@dataclass(frozen=True)
class MarkPatterns(Pass):
    """Mark weights whose sparsity pattern isn't 2:4.

    The table maps the name of a weight to its pattern, which is the name of the format that stores it.

    Requires: a table whose patterns have formats.

    Ensures: each `sparse_gemm.weight` that the table knows carries its pattern as `sparse_gemm.pattern`:
    `match-sparse-linear` gives the layers that read it the format of that name. Others are left alone.
    """

    name: ClassVar[str] = "mark-patterns"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009

    def run(self, module: ir.Module) -> None:
        """Look each weight up by its name."""
        table = self._load()
        for op in operations(module, {"sparse_gemm.weight"}):
            pattern = table.get(text_of(op, "name"))
            if pattern is not None:
                op.attributes[PATTERN] = ir.StringAttr.get(pattern)

    def _load(self) -> Mapping[str, str]:
        if self.table is None:
            raise PassError(
                "pass 'mark-patterns'", "has no table", "Give one: mark-patterns{table=patterns.json}."
            )
        entries = read_table(self.table, "table of patterns", _FORMAT)
        return {name: _pattern(name, entry) for name, entry in entries.items()}


def _pattern(name: str, entry: object) -> str:
    if isinstance(entry, str) and entry in sparse_names():
        return entry
    known = ", ".join(sparse_names())
    raise PassError(
        f"table of patterns, entry '{name}'", f"is none of the formats {known}: {entry!r}", _FORMAT
    )
