"""What the demo keeps between its runs: the converted model, compiled models, what was measured."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparseflow.runtime.dispatch.cpu_identity import Machine
from sparseflow.runtime.dispatch.store import cache_dir

Say = Callable[[str], None]
"""Tells the user which step is going on."""

_PACKAGES = ("sparseflow", "sparseflow.passes", "sparseflow.lowering", "sparseflow.runtime")


def demo_dir() -> Path:
    """Return the folder of everything that is kept, made if it isn't there."""
    folder = cache_dir() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_dir() -> Path:
    """Return the folder of what was compiled and measured by these sources, on this machine and torch.

    Folders of other sources, machines or numbers of threads are removed: each holds compiled models.
    """
    key = hashlib.sha256(f"{Machine.here().digest()} {_newest_source()}".encode()).hexdigest()[:12]
    folder = demo_dir() / f"results-{key}"
    for other in demo_dir().glob("results-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    return folder


def keep(path: Path, make: Callable[[Path], object]) -> bool:
    """Make a file or folder unless it is there; it takes its place when it is whole.

    Args:
        path: its place, in a folder that exists.
        make: writes it to the path that it is given.

    Returns:
        Whether it was there.
    """
    if path.exists():
        return True
    part = path.with_name(f"{path.name}.part")
    _remove(part)
    make(part)
    _give_back()
    part.rename(path)
    return False


def keep_json(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a JSON file holds, which is written from what `make` returns unless it is there."""
    keep(path, lambda part: part.write_text(json.dumps(make(), indent=1), encoding="utf-8"))
    return kept_json(path)


def kept_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def kept_bytes() -> int:
    """Return the size of everything that is kept."""
    return sum(path.stat().st_size for path in demo_dir().rglob("*") if path.is_file())


def forget() -> None:
    """Remove everything that is kept but the converted language model."""
    for folder in demo_dir().glob("results-*"):
        shutil.rmtree(folder)


def _give_back() -> None:
    """Give back to the system what nobody holds any more: the next step needs the memory.

    A compiled model holds itself, and glibc keeps freed blocks of up to 32 MB.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _newest_source() -> int:
    """Return when the newest of SparseFlow's and the demo's sources was written, nanoseconds."""
    folders = [Path(__file__).parent]
    folders += [Path(str(importlib.import_module(name).__file__)).resolve().parent for name in _PACKAGES]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".so")]
    return max(path.stat().st_mtime_ns for path in files)
