"""The manifest: what an artifact is, its files and their hashes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from sparseflow.errors import ArtifactError
from sparseflow.support.documents import Document

NAME = "manifest.json"
FORMAT = "sparseflow-artifact"
VERSION = 4
HASH = "blake3"
"""The hash function. BLAKE3 is as hard to forge as SHA-256, and as fast as reading."""
_AGAIN = "save it again, or get a complete copy"


def seal(folder: Path, content: Mapping[str, object]) -> None:
    """Write the manifest of a folder: `content`, and each file's size and BLAKE3 hash.

    Everything is synced to disk.
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


def read_manifest(folder: Path) -> Document:
    """Read and verify the manifest of an artifact, without checking its files.

    Raises:
        ArtifactError: it is missing, foreign, newer or was changed.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"artifact {folder}", "there is no such folder", "give a folder that compiled.save wrote"
        )
    if not (folder / NAME).is_file():
        raise ArtifactError(
            f"artifact {folder}",
            f"it isn't an artifact: it has no {NAME}",
            "give a folder that compiled.save wrote",
        )
    manifest = read_json(folder, NAME)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"artifact {folder}",
            f"its {NAME} wasn't written by SparseFlow",
            "give a folder that compiled.save wrote",
        )
    version = manifest.get("version")
    if type(version) is not int or version != VERSION:
        raise ArtifactError(
            f"artifact {folder}",
            f"its format version is {version!r:.20}; this SparseFlow reads version {VERSION}",
            "update SparseFlow, or save it again",
        )
    digest = manifest.pop(HASH, None)
    if digest != own_digest(manifest):
        raise ArtifactError(f"artifact {folder}", f"its {NAME} was changed after it was written", _AGAIN)
    return manifest


def verify(folder: Path, manifest: Document) -> None:
    """Check that no file changed; several are read at a time, each by one thread.

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


def read_json(folder: Path, name: str) -> object:
    """Read a JSON file of an artifact.

    Raises:
        ArtifactError: it can't be read or isn't JSON.
    """
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(f"artifact {folder}", f"{name} can't be read: {error.strerror}", _AGAIN) from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"artifact {folder}", f"{name} isn't JSON", _AGAIN) from None


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"{name!r:.80} isn't a file of the folder")
    return name


def own_digest(manifest: Mapping[str, object]) -> str:
    """Return the digest of a manifest without its digest entry, in hexadecimal."""
    return blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the hash of each file, in hexadecimal."""
    listed = list(paths)
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        return dict(zip(listed, pool.map(_digest, listed), strict=True))


def _digest(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()
