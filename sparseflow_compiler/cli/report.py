"""`sparseflow report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    from sparseflow.reports import Page, Source


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a compiled model, or JSON of a command or benchmark. Several make one page.",
            metavar="PATH...",
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write one HTML page that needs nothing else.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
    md: Annotated[Path | None, typer.Option(help="Write Markdown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is reported as JSON.")] = False,
) -> None:
    """Show what was compiled, tuned, profiled or measured, as text or as a page.

    The files of a compiled model are checked first.
    """
    forms = {"html": html, "png": png, "md": md}
    for file in forms.values():
        option_values.require_folder(file)
    from sparseflow.reports import page_of, read, write

    sources = [read(path) for path in paths]
    page = page_of(sources)
    written = {form: file for form, file in forms.items() if file is not None}
    for form, file in written.items():
        write(page, file, form)
    if as_json:
        option_values.print_json(
            sources[0].data if len(sources) == 1 else [source.data for source in sources]
        )
    elif written:
        print("\n".join(f"wrote {file}" for file in written.values()))
    else:
        print(_text(paths[0], sources, page))


def _text(path: Path, sources: list[Source], page: Page) -> str:
    if len(sources) == 1 and path.is_dir():
        from sparseflow.runtime.artifact.loading import malformed_as_error

        with malformed_as_error(path):
            return _table(dict(sources[0].data))
    from sparseflow.reports import WRITERS

    return WRITERS["md"](page).decode()


def _table(data: Document) -> str:
    from sparseflow.reports.report import Report

    manifest = data["artifact"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return (
        f"{Report.from_dict(data).table()}{manifest['programs']} programs for {manifest['device']}, "
        f"{size / 1e6:.1f} MB, saved with {versions}"
    )
