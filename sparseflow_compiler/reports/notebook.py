"""Render a compilation's report for the output of a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.reports.compilation_page import key_figures
from sparseflow.reports.grouping import groups
from sparseflow.reports.html import environment
from sparseflow.reports.text import MOST_GROUPS, dense_notes, gains

if TYPE_CHECKING:
    from sparseflow.reports.report import Report


def notebook_html(report: Report) -> str:
    """Return the report as a fragment of HTML: three figures, and a line for each group of layers.

    It brings its style, names no other file, and takes the notebook's colours, light or dark. Its size
    depends on the kinds of layers, not on their number; `Report.to_html` has all of them.
    """
    found = groups(report.layers)
    shown = sorted(found, key=lambda group: -group.bytes_dense)[:MOST_GROUPS]
    return (
        environment()
        .get_template("notebook.html.jinja")
        .render(
            name=str(report.model.get("name", "model")),
            facts=key_figures(report).items,
            groups=[(group, gains(group.ranges)) for group in found if group in shown],
            left=len(found) - len(shown),
            notes=tuple(dense_notes(shown)),
        )
    )
