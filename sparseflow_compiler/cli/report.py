"""`sparseflow report`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.verbosity import Verbosity, verbosity
from sparseflow.support.documents import Document
from sparseflow.support.text_table import fill

if TYPE_CHECKING:
    from sparseflow.reports import Page
    from sparseflow.reports.report import Report


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
    dark: option_values.Dark = False,
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
        write(page, file, form, dark=dark)
    data = sources[0].data if len(sources) == 1 else [source.data for source in sources]
    if written and not as_json:
        if verbosity() is not Verbosity.QUIET:
            print("\n".join(f"wrote {file}" for file in written.values()))
    elif len(sources) == 1 and paths[0].is_dir():
        from sparseflow.runtime.artifact.loading import malformed_as_error

        with malformed_as_error(paths[0]):
            answer(data, lambda width: _artifact_text(dict(sources[0].data), width), as_json=as_json)
    else:
        answer(data, page_text(page), as_json=as_json)


def report_text(report: Report) -> Callable[[int], str]:
    """Return the function that writes a compilation's report in some width; with -v it has every layer."""
    return functools.partial(report.table, expand=verbosity() is Verbosity.VERBOSE)


def page_text(page: Page) -> Callable[[int], str]:
    """Return the function that writes a page: for a terminal in its width, for a file or pipe as Markdown."""
    from sparseflow.reports import WRITERS, plain

    if sys.stdout.isatty():
        return functools.partial(plain, page)
    return lambda _: WRITERS["md"](page).decode()


def _artifact_text(data: Document, width: int) -> str:
    from sparseflow.reports.report import Report

    manifest = data["artifact"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    programs, device = manifest["programs"], manifest["device"]
    saved = f"{programs} programs for {device}, {size / 1e6:.1f} MB, saved with {versions}"
    return report_text(Report.from_dict(data))(width) + fill(saved, width)
