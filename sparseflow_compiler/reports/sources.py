"""Recognise files of SparseFlow's commands and benchmarks and make pages of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sparseflow.errors import ArgumentError, SparseFlowError
from sparseflow.reports.compilation_page import compiled_page
from sparseflow.reports.measurement_pages import points_page, rows_page, rows_table
from sparseflow.reports.page import Page, Piece
from sparseflow.reports.profiled import profile_page
from sparseflow.support.documents import Document


@dataclass(frozen=True)
class Source:
    """A document to make a page of.

    Attributes:
        name: its name in errors and titles.
        data: a report's ``to_dict()``, or the contents of a JSON file.
    """

    name: str
    data: Document


def read(path: Path) -> Source:
    """Read an artifact's folder or a JSON file.

    Raises:
        ArtifactError: the folder is no artifact that can be read.
        ArgumentError: the file can't be read, or is no JSON object.
    """
    if path.is_dir():
        from sparseflow.runtime.artifact.loading import read_report

        manifest, data = read_report(path)
        return Source(path.name, {**data, "artifact": manifest})
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(f"report {path}", f"can't be read: {error}", _REMEDY) from None
    if not isinstance(found, dict):
        raise ArgumentError(f"report {path}", "isn't a JSON object", _REMEDY)
    return Source(path.stem, found)


def page_of(sources: Sequence[Source]) -> Page:
    """Make one page of several sources, titled by the first; the others title their parts.

    Raises:
        ArgumentError: there are none, or one isn't of SparseFlow.
    """
    pages = [_page(source) for source in sources]
    if not pages:
        raise ArgumentError("report", "needs something to report", _REMEDY)
    if len(pages) == 1:
        return pages[0]
    about = tuple(f"{page.title}: {line}" for page in pages for line in page.about)
    parts = [pages[0].pieces, *map(_titled, pages[1:])]
    return Page(pages[0].title, about, tuple(piece for part in parts for piece in part))


def _titled(page: Page) -> tuple[Piece, ...]:
    """Return the pieces of a page that is part of another; an untitled piece gets the page's title."""
    return tuple(piece if piece.title else replace(piece, title=page.title) for piece in page.pieces)


def _page(source: Source) -> Page:
    make = next((make for fits, make in _KINDS if fits(source.data)), None)
    if make is None:
        raise ArgumentError(f"report {source.name}", "is nothing that SparseFlow writes", _REMEDY)
    with _malformed_as_error(source.name):
        return make(source.name, source.data)


@contextmanager
def _malformed_as_error(name: str) -> Iterator[None]:
    """Turn every error that malformed content can cause into an ArgumentError."""
    try:
        yield
    except SparseFlowError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ArgumentError(f"report {name}", f"can't be understood: {reason}", _REMEDY) from error


def _pruned(name: str, data: Document) -> Page:
    return Page(f"Pruning: {name}", tuple(data["notes"]), (rows_table("Layers", data["layers"]),))


_REMEDY = "give an artifact's folder, or what --json of a command or a benchmark wrote"

_KINDS: Sequence[tuple[Callable[[Document], bool], Callable[[str, Document], Page]]] = (
    (lambda d: "layers" in d and "model" in d, lambda _, d: compiled_page(d)),
    (lambda d: "layers" in d and "notes" in d, _pruned),
    (lambda d: "gemm_share" in d, lambda _, d: profile_page(d)),
    (lambda d: str(d.get("format")).startswith("sparseflow."), lambda n, d: points_page(n, d, d["rows"])),
    (lambda d: "measured" in d, lambda n, d: points_page("Tuning", d, d["measured"])),
    (lambda d: "rows" in d, rows_page),
)
"""How each kind of document is recognised, and the function that makes its page."""
