"""`sparseflow report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def report(
    artifact: Annotated[
        Path, typer.Argument(help="Folder that `compiled.save` or `sparseflow compile` made.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show what was compiled into an artifact, layer by layer, and with what; its files are checked first."""
    from sparseflow.runtime.artifact.loading import read_report, understood

    manifest, data = read_report(artifact)
    if as_json:
        print(json.dumps({**data, "artifact": manifest}))
        return
    with understood(artifact):
        text = _text(manifest, data)
    print(text)


def _text(manifest: dict[str, Any], data: dict[str, Any]) -> str:
    from sparseflow.api.report import Report

    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return (
        f"{Report.from_dict(data).table()}{manifest['programs']} programs for {manifest['device']}, "
        f"{size / 1e6:.1f} MB, saved with {versions}"
    )
