"""Pages about compiled, tuned or measured things: HTML, PNG or Markdown.

``read`` makes a `Page` from files, ``page_of`` from reports' dictionaries; ``html``, ``markdown``, ``png``
and, for terminals, ``plain`` render it; ``notebook_html`` renders a compilation's report for a notebook.
"""

from __future__ import annotations

from sparseflow.reports.notebook import notebook_html
from sparseflow.reports.page import Page
from sparseflow.reports.page_files import WRITERS, write
from sparseflow.reports.plain import plain
from sparseflow.reports.sources import Source, page_of, read

__all__ = ["WRITERS", "Page", "Source", "notebook_html", "page_of", "plain", "read", "write"]
