"""The manifest: what an artifact is, which files it has, and what they must contain byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sparseflow.errors import ArtifactError

NAME = "manifest.json"
FORMAT = "sparseflow-artifact"
VERSION = 1
_AGAIN = "save it again, or get a whole copy"


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder: `content`, and size and SHA-256 of each file.

    All of it reaches the disk.
    """
    paths = sorted(folder.iterdir())
    digests = _digests(paths)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": digests[path]} for path in paths}
    whole = {"format": FORMAT, "version": VERSION, **content, "files": files}
    (folder / NAME).write_text(json.dumps({**whole, "sha256": _own_digest(whole)}, indent=1) + "\n")
    for path in (*paths, folder / NAME, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact, itself whole; files are not looked at.

    Raises:
        ArtifactError: there is none, or it is another's, newer or was changed.
    """
    if not folder.is_dir():
        raise ArtifactError(f"artifact {folder}", "there is no such folder", "name what compiled.save made")
    if not (folder / NAME).is_file():
        raise ArtifactError(
            f"artifact {folder}", f"it is none: it has no {NAME}", "name what compiled.save made"
        )
    manifest = read_json(folder, NAME)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"artifact {folder}", f"its {NAME} is not SparseFlow's", "name what compiled.save made"
        )
    version = manifest.get("version")
    if type(version) is not int or version != VERSION:
        raise ArtifactError(
            f"artifact {folder}",
            f"its format has version {version!r:.20}, this SparseFlow reads {VERSION}",
            "update SparseFlow, or save it again",
        )
    digest = manifest.pop("sha256", None)
    if digest != _own_digest(manifest):
        raise ArtifactError(f"artifact {folder}", f"its {NAME} was changed after it was written", _AGAIN)
    return manifest


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that every file is as it was written; each is read once, several at a time.

    Raises:
        ArtifactError: a file is missing, truncated or changed.
    """
    files = {folder / _plain(name): entry for name, entry in manifest["files"].items()}
    for path, entry in files.items():
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes of {entry['bytes']}"
            raise ArtifactError(f"artifact {folder}", f"{path.name} {found}", _AGAIN)
    for path, digest in _digests(files).items():
        if digest != files[path]["sha256"]:
            raise ArtifactError(f"artifact {folder}", f"{path.name} was changed after it was written", _AGAIN)


def read_json(folder: Path, name: str) -> Any:
    """What a file of an artifact says.

    Raises:
        ArtifactError: it can't be read, or is no JSON.
    """
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(f"artifact {folder}", f"{name} can't be read: {error.strerror}", _AGAIN) from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"artifact {folder}", f"{name} is no JSON", _AGAIN) from None


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"{name!r:.80} is no file of the folder")
    return name


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digests(paths: Iterable[Path]) -> dict[Path, str]:
    listed = list(paths)
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        return dict(zip(listed, pool.map(_digest, listed), strict=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
