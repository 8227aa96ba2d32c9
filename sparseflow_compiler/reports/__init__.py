"""What was compiled, tuned or measured as a page: HTML, PNG or Markdown.

``read`` makes a `Page` from files, ``page_of`` from the dictionaries of reports; ``html``, ``markdown`` and
``png`` write it.
"""

from __future__ import annotations

from sparseflow.reports.page import Page
from sparseflow.reports.sources import Source, page_of, read
from sparseflow.reports.writing import WRITERS, write

__all__ = ["WRITERS", "Page", "Source", "page_of", "read", "write"]
