"""Replace folders atomically, even if the process is killed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Create a new folder that replaces another once it is complete.

    Folders left behind by killed processes are removed.

    Args:
        folder: to replace; need not exist.

    Raises:
        OSError: it can't be written; the old folder is unchanged.
    """
    folder = folder.absolute()
    _remove_abandoned(folder)
    work, lock = _own(folder)
    try:
        (work / "new").mkdir()
        yield work / "new"
        _exchange(work / "new", folder, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _own(folder: Path) -> tuple[Path, int]:
    """Create a folder beside another; return it and the lock that marks it as in use."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
        with suppress(FileNotFoundError):  # another process considered it abandoned before it was locked
            lock = os.open(work, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                os.close(lock)
                work.rmdir()
                raise
            if work.exists():
                return work, lock
            os.close(lock)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.saving-"


def _remove_abandoned(folder: Path) -> None:
    """Remove folders that can be locked: their process died, which released the lock."""
    for work in folder.parent.glob(f"{_prefix(folder)}*"):
        with suppress(OSError):
            lock = os.open(work, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (work / "old").exists() and not folder.exists():  # killed between the two renames
                    (work / "new").rename(folder)
                shutil.rmtree(work)
            finally:
                os.close(lock)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Move `new` to `folder`, or leave everything unchanged."""
    if not folder.exists():
        new.rename(folder)
    elif not _swap(new, folder):
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names atomically, if the system and the file system support it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
