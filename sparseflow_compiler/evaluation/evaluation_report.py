"""Evaluation reports: a table and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparseflow.support.text_table import Column, text_table


@dataclass
class EvaluationReport:
    """Figures of several models or pruning methods.

    Attributes:
        about: properties of all rows: files, windows, seeds.
        rows: figures by name, each row with its ``name``; missing figures are left out.
    """

    about: dict[str, object] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, **figures: object) -> None:
        """Add a row."""
        self.rows.append({"name": name, **figures})

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        return {"about": dict(self.about), "rows": [dict(row) for row in self.rows]}

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def table(self, width: int = 130) -> str:
        """Return the report as text, one line a row, with shared properties on top."""
        title = ", ".join(f"{key} {value}" for key, value in self.about.items())
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        columns: list[Column] = [(name, "left" if name == "name" else "right") for name in names]
        rows = [[_cell(row.get(name)) for name in names] for row in self.rows]
        return text_table(title, columns, rows, (), width)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
