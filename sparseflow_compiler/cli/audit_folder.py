"""`sparseflow eval --audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from sparseflow.cli.answer import answer
from sparseflow.cli.prune import REPORT
from sparseflow.cli.saved_models import load_model
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import read_tokenizer
from sparseflow.reports.audit_page import audit_page
from sparseflow.reports.page import Page
from sparseflow.support.documents import Document


def audit_folder(
    models: Sequence[Path],
    dense: Path | None,
    texts: Sequence[Path],
    options: Mapping[str, int],
    dtype: str | None,
    device: str,
    html: Path | None,
    as_json: bool,
) -> None:
    """Audit the model in the one folder, write the page, and print the report.

    Args:
        models: one folder of a transformers model with its tokenizer.
        dense: folder of the dense model, or None.
        texts: files; none: those that come with Python.
        options: of `AuditOptions`.
        dtype: of both models; None: as saved.
        device: where to run.
        html: the page's file, or None.
        as_json: print JSON.

    Raises:
        ArgumentError: there are several folders, no tokenizer, or a file can't be read.
        typer.Exit: with 1, if a weight isn't what the model's report claims.
    """
    if len(models) != 1:
        raise ArgumentError(
            "--audit", f"reads one model, not {len(models)}", "audit them one after the other"
        )
    (folder,) = models
    tokenizer = read_tokenizer(folder) or (read_tokenizer(dense) if dense else None)
    if tokenizer is None:
        raise ArgumentError(f"model {folder}", "holds no tokenizer, which an audit needs", "save it there")
    from sparseflow.evaluation import AuditOptions, audit, read_tokens

    reference = None if dense is None else load_model(dense, dtype, device)
    report = audit(
        load_model(folder, dtype, device),
        tokenizer,
        reference,
        claims=_claims(folder / REPORT),
        texts={path.name: read_tokens(path, tokenizer)[0] for path in texts} or None,
        options=AuditOptions(**options),
        about={"model": str(folder), **({} if dense is None else {"dense_model": str(dense)})},
    )
    found = report.to_dict()
    page = audit_page(f"Audit of {folder.name}", found)
    if html is not None:
        from sparseflow.reports.page_files import write

        write(page, html, "html")
    answer(found, lambda width: _text(page), as_json=as_json)
    if report.patterns.failures:
        raise typer.Exit(1)


def _claims(report: Path) -> dict[str, str]:
    """Return the pattern of each layer that a report of `sparseflow prune` says is pruned."""
    if not report.is_file():
        return {}
    found: Document = json.loads(report.read_text(encoding="utf-8"))
    usual = found.get("pattern", "2:4")
    return {one["name"]: one.get("pattern") or usual for one in found["layers"] if one["method"] is not None}


def _text(page: Page) -> str:
    """Return the page as text, without the long tables of layers and answers."""
    from dataclasses import replace

    from sparseflow.reports.markdown import markdown

    left_out = ("Layers", "Answers side by side", "Questions whose answer is one word")
    return markdown(
        replace(page, pieces=tuple(piece for piece in page.pieces if piece.title not in left_out))
    )
