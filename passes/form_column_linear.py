"""The pass ``form-column-linear``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.column_linear import column_linear
from sparseflow.dialect.matchers import is_none, operations, weight_ref
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.eligibility import Limits, reason_to_stay
from sparseflow.passes.ir_builder import before, explain, replace
from sparseflow.passes.option_text import Table, parse_table, read_table
from sparseflow.runtime.formats import COLUMNS

_FORMAT = 'Write {"0.q_proj": {"threshold": 0.25, "m_max": 4}} or {"dense": "why"} for an entry.'

_ANY = Limits(min_n=1, min_k=1, skip=())


@dataclass(frozen=True)
class ColumnEntry:
    """How one layer leaves out inputs.

    Attributes:
        threshold: those smaller in magnitude are left out.
        m_max: of at most so many rows.
        format: how its weight is stored, of `COLUMNS`; empty: as it is.
    """

    threshold: float
    m_max: int
    format: str = ""


@dataclass(frozen=True)
class FormColumnLinear(Pass):
    """Form linear layers that leave out the inputs near zero.

    The table maps the name of a layer to its threshold, to the most rows of which inputs are left out, and
    optionally to the `format`, `int8` or `fp8`, in which its weight is stored; or to `{"dense": "why"}`.

    Requires: layers in the form of `canonicalize-linear`; a table whose entries are well-formed.

    Ensures: each `torch.aten.linear` over a weight by reference that the table knows is a
    `sparse_gemm.column_linear`, of which `merge-projections` merges those of one input and threshold. One
    that can't be, or that the table wants dense, carries the reason as `sparse_gemm.reason`.

    Left alone: layers that the table doesn't know, unless `outside-reason` says why they stay dense.
    """

    name: ClassVar[str] = "form-column-linear"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009
    outside_reason: str = option(
        "",
        "keep layers that the table doesn't know dense, for this reason; empty: they can become sparse",
        str,
    )

    def run(self, module: ir.Module) -> None:
        """Form each layer by itself."""
        table = self._load()
        for op in operations(module, {"torch.aten.linear"}):
            ref = weight_ref(op.operands[1])
            entry = None if ref is None else table.get(ref.layers[0])
            if entry is None:
                if self.outside_reason:
                    explain(op, self.outside_reason)
                continue
            reason = entry if isinstance(entry, str) else reason_to_stay(op, ref, _ANY)
            if reason is not None:
                explain(op, f"every input is read: {reason}")
            elif isinstance(entry, ColumnEntry):
                _form(op, entry)

    def _load(self) -> Mapping[str, ColumnEntry | str]:
        if self.table is None:
            raise PassError(
                f"pass '{self.name}'",
                "has no table",
                "Give one: form-column-linear{table=thresholds.json}.",
            )
        entries = read_table(self.table, "threshold table", _FORMAT)
        return {name: _entry(name, entry) for name, entry in entries.items()}


def _entry(name: str, entry: object) -> ColumnEntry | str:
    subject = f"threshold table, entry '{name}'"
    if isinstance(entry, ColumnEntry):
        return entry
    if isinstance(entry, Mapping) and list(entry) == ["dense"]:
        return str(entry["dense"])
    try:
        found = ColumnEntry(**entry)  # type: ignore[arg-type]
        valid = found.m_max >= 1 and int(found.m_max) == found.m_max and 0 <= found.threshold < float("inf")
        valid = valid and found.format in ("", *COLUMNS)
    except (TypeError, ValueError):
        raise PassError(subject, f"isn't a threshold: {entry!r}", _FORMAT) from None
    if not valid:
        raise PassError(subject, f"has an invalid value: {entry!r}", _FORMAT)
    return found


def _form(layer: ir.Operation, entry: ColumnEntry) -> None:
    x, weight, bias = layer.operands
    with before(layer):
        made = column_linear(
            x,
            weight,
            None if is_none(bias) else bias,
            threshold=float(entry.threshold),
            m_max=int(entry.m_max),
            format=entry.format,
            result=layer.results[0].type,
        )
    replace(layer, made.results[0])
