"""Write pages to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sparseflow.errors import ArgumentError
from sparseflow.reports.html import html
from sparseflow.reports.markdown import markdown
from sparseflow.reports.page import Page
from sparseflow.reports.png import png


def _text(make: Callable[[Page], str]) -> Callable[[Page], bytes]:
    return lambda page: make(page).encode("utf-8")


WRITERS: dict[str, Callable[[Page], bytes]] = {"html": _text(html), "md": _text(markdown), "png": png}
"""The function that renders a page to bytes, by form."""


def write(page: Page, path: Path, form: str, *, dark: bool = False) -> None:
    """Write a page.

    Args:
        page: the page.
        path: of the file.
        form: ``"html"``, ``"md"`` or ``"png"``.
        dark: whether a picture has dark ground; a page follows its reader's setting.

    Raises:
        MissingDependencyError: a picture needs matplotlib, which is missing.
        ArgumentError: the file can't be written.
    """
    content = png(page, dark=dark) if form == "png" else WRITERS[form](page)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ArgumentError(
            f"--{form} {path}", f"can't be written: {error.strerror}", "name a file in a folder that can"
        ) from None
