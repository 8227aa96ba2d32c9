"""Evaluation reports: a table and JSON."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
        from rich.console import Console
        from rich.table import Table

        title = ", ".join(f"{key} {value}" for key, value in self.about.items())
        table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        for column in columns:
            justify = "left" if column == "name" else "right"
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        text = io.StringIO()
        Console(file=text, width=width, markup=False, force_jupyter=False).print(table)
        return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
