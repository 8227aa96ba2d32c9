"""The measurements of one machine, kept as a JSON file under the user's cache folder."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from sparseflow.runtime.dispatch.crossing import choose
from sparseflow.runtime.dispatch.machine import Machine
from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.dispatch.policy import Policy

FORMAT = "sparseflow.dispatch"
VERSION = 1
_Key = tuple[str, int, int, int]


class DispatchTableWarning(UserWarning):
    """A table of measurements couldn't be used or kept; nothing depends on it but time."""


def cache_dir() -> Path:
    """Where tables are: ``SPARSEFLOW_CACHE_DIR``, else the user's cache folder."""
    configured = os.environ.get("SPARSEFLOW_CACHE_DIR")
    return Path(configured) if configured else platformdirs.user_cache_path("sparseflow")


class Table:
    """Measurements by (dtype, N, K, M) for one machine.

    A file that is damaged, of another version or of another machine is reported with a
    ``DispatchTableWarning`` and treated as empty; the next ``save`` replaces it.

    Attributes:
        machine: what the measurements hold for.
        path: the file, which need not exist.
        note: why an existing file was ignored, or None.
    """

    def __init__(self, machine: Machine | None = None, folder: Path | None = None) -> None:
        self.machine = machine or Machine.here()
        self.path = (folder or cache_dir()) / f"dispatch-{self.machine.digest()}.json"
        self._rows, self.note = self._read()
        if self.note:
            warn(self.note)

    def __len__(self) -> int:
        return len(self._rows)

    def layer(self, dtype: str, n: int, k: int) -> list[Measurement]:
        """The measurements of one layer, ascending in M."""
        return sorted(row for row in self._rows.values() if (row.dtype, row.n, row.k) == (dtype, n, k))

    def policy(self, dtype: str, n: int, k: int) -> Policy | None:
        """The policy that the measurements justify, or None where there are none."""
        rows = self.layer(dtype, n, k)
        return choose(rows) if rows else None

    def add(self, rows: Iterable[Measurement]) -> None:
        """Add measurements, replacing those of the same point."""
        self._rows.update(_by_key(rows))

    def save(self) -> bool:
        """Write the table, together with what other processes wrote since it was read.

        Returns:
            Whether it was written; if not, a ``DispatchTableWarning`` says why, and they stay in memory.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                others, _ = self._read()
                self._rows = others | self._rows
                _replace(self.path, self._text())
        except OSError as error:
            warn(f"{self.path}: can't be written ({error}); measurements will be repeated next time")
            return False
        return True

    def _text(self) -> str:
        rows = [json.dumps(row.to_dict()) for row in sorted(self._rows.values())]
        head = json.dumps({"format": FORMAT, "version": VERSION, "machine": dataclasses.asdict(self.machine)})
        # One row a line: the file can be read, and compared, by a person.
        return head[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}\n"

    def _read(self) -> tuple[dict[_Key, Measurement], str | None]:
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}, None
        except (OSError, ValueError, RecursionError) as error:
            return {}, f"{self.path}: ignored, not readable as JSON ({error})"
        reason = self._foreign(document)
        if reason:
            return {}, f"{self.path}: ignored, {reason}"
        try:
            return _by_key(Measurement.from_dict(row) for row in document["rows"]), None
        except (ValueError, TypeError, KeyError) as error:
            return {}, f"{self.path}: ignored, a row is malformed ({error})"

    def _foreign(self, document: Any) -> str | None:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            return "not a table of SparseFlow"
        if document.get("version") != VERSION:
            return f"version {document.get('version')!r}, this release reads version {VERSION}"
        if document.get("machine") != dataclasses.asdict(self.machine):
            return "measured on another machine or with other software"
        return None


def _by_key(rows: Iterable[Measurement]) -> dict[_Key, Measurement]:
    return {(row.dtype, row.n, row.k, row.m): row for row in rows}


def warn(text: str) -> None:
    """Warn where the caller's caller is."""
    warnings.warn(text, DispatchTableWarning, stacklevel=3)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system drops it when a process dies, so none is ever stale."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
