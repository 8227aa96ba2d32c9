"""The pass ``keep-dense``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import operations
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.option_text import Table, parse_table, read_table

_FORMAT = 'Write {"lm_head.weight": "why it stays dense"}.'


@dataclass(frozen=True)
class KeepDense(Pass):
    """Mark weights that stay dense, such as those that aren't 2:4 and won't be pruned.

    The table maps the name of a weight to the reason.

    Requires: a table whose reasons are texts.

    Ensures: each `sparse_gemm.weight` that the table knows carries the reason as `sparse_gemm.dense`:
    `match-sparse-linear` keeps the layers that read it dense, for this reason. Others are left alone.
    """

    name: ClassVar[str] = "keep-dense"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009

    def run(self, module: ir.Module) -> None:
        """Look each weight up by its name."""
        table = self._load()
        for op in operations(module, {"sparse_gemm.weight"}):
            reason = table.get(text_of(op, "name"))
            if reason is not None:
                op.attributes["sparse_gemm.dense"] = ir.StringAttr.get(reason)

    def _load(self) -> Mapping[str, str]:
        if self.table is None:
            raise PassError("pass 'keep-dense'", "has no table", "Give one: keep-dense{table=dense.json}.")
        entries = read_table(self.table, "table of dense weights", _FORMAT)
        return {name: _reason(name, entry) for name, entry in entries.items()}


def _reason(name: str, entry: object) -> str:
    if isinstance(entry, str) and entry:
        return entry
    raise PassError(f"table of dense weights, entry '{name}'", f"isn't a reason: {entry!r}", _FORMAT)
