"""The manifest: what an artifact is, which files it has, and what they must contain byte for byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from sparseflow.errors import ArtifactError

NAME = "manifest.json"
FORMAT = "sparseflow-artifact"
VERSION = 3
HASH = "blake3"
"""What vouches for the files. BLAKE3 is as hard to forge as SHA-256, and as fast as reading."""
_AGAIN = "save it again, or get a whole copy"


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder: `content`, and size and BLAKE3 hash of each file.

    All of it reaches the disk.
    """
    paths = sorted(folder.iterdir())
    files = {
        path.name: {"bytes": path.stat().st_size, HASH: digest} for path, digest in digests(paths).items()
    }
    whole = {"format": FORMAT, "version": VERSION, **content, "files": files}
    (folder / NAME).write_text(json.dumps({**whole, HASH: own_digest(whole)}, indent=1) + "\n")
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
    digest = manifest.pop(HASH, None)
    if digest != own_digest(manifest):
        raise ArtifactError(f"artifact {folder}", f"its {NAME} was changed after it was written", _AGAIN)
    return manifest


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that every file is as it was written; each is read once, by one thread, several at a time.

    Raises:
        ArtifactError: a file is missing, truncated or changed.
    """
    files = {folder / _plain(name): entry for name, entry in manifest["files"].items()}
    for path, entry in files.items():
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes of {entry['bytes']}"
            raise ArtifactError(f"artifact {folder}", f"{path.name} {found}", _AGAIN)
    for path, digest in digests(files).items():
        if digest != files[path][HASH]:
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


def own_digest(manifest: Mapping[str, Any]) -> str:
    """What vouches for a manifest, in hexadecimal; the entry that holds it must be left out."""
    return blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """The hash of each file in hexadecimal."""
    listed = list(paths)
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        return dict(zip(listed, pool.map(_digest, listed), strict=True))


def _digest(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()
