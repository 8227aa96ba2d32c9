"""Tables of measured rows in JSON files that several processes may write at the same time."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sparseflow.errors import SparseFlowWarning
from sparseflow.support.user_warnings import warn

_Key = tuple[str, int, int, int]
Stamp = tuple[int, int, int]


class DispatchTableWarning(SparseFlowWarning):
    """A table of measurements couldn't be read or written, or is incomplete; only speed suffers."""


def cache_dir() -> Path:
    """Return the folder of the tables: ``SPARSEFLOW_CACHE_DIR``, else the user's cache folder."""
    configured = os.environ.get("SPARSEFLOW_CACHE_DIR")
    if configured:
        return Path(configured)
    import platformdirs  # here, because it isn't needed if the folder is given, and may be missing then

    return platformdirs.user_cache_path("sparseflow")


@dataclasses.dataclass(frozen=True)
class TableKey:
    """Base of the dataclasses that name the machine a table's measurements hold for."""

    def digest(self) -> str:
        """Return a short hash of the fields for file names."""
        text = repr(dataclasses.astuple(self))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Row(Protocol):
    """A row of a table: the point that it measures, and its form in JSON."""

    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def k(self) -> int: ...  # noqa: D102
    @property
    def m(self) -> int: ...  # noqa: D102
    def to_dict(self) -> dict[str, Any]: ...  # noqa: D102


R = TypeVar("R", bound=Row)


class Store(abc.ABC, Generic[R]):
    """Rows by (dtype, N, K, M) that hold for one machine.

    A file that is damaged, of another version or of another machine is reported with a
    ``DispatchTableWarning`` and treated as empty; the next ``save`` replaces it.

    Attributes:
        path: the file, which need not exist.
        note: why an existing file was ignored, or None.
    """

    format: ClassVar[str]
    version: ClassVar[int] = 1

    def __init__(self, key: TableKey, path: Path) -> None:
        self._table_key = key
        self.path = path
        self._lines: dict[_Key, tuple[R, str]] = {}
        self._written: Stamp | None = None
        self._rows, self.note = self._read()
        if self.note:
            warn(self.note, DispatchTableWarning)

    @abc.abstractmethod
    def _row(self, row: Any) -> R:
        """Build a row from JSON; raise ValueError if it is malformed."""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows.values())

    def layer(self, dtype: str, n: int, k: int) -> list[R]:
        """Return the rows of one layer, ascending in M."""
        rows = (row for row in self._rows.values() if (row.dtype, row.n, row.k) == (dtype, n, k))
        return sorted(rows, key=lambda row: row.m)

    def add(self, rows: Iterable[R]) -> None:
        """Add rows, replacing those of the same point."""
        self._rows.update(_by_key(rows))

    def refresh(self) -> None:
        """Add the rows that other processes wrote since the table was read."""
        self._rows |= self._others()

    def save(self) -> bool:
        """Write the table, together with what other processes wrote since it was read.

        Returns:
            Whether it was written. If not, a ``DispatchTableWarning`` says why, and the rows stay in memory.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                self._rows = self._others() | self._rows
                _replace(self.path, self._text())
                self._written = stamp(self.path)
        except OSError as error:
            text = f"{self.path}: can't be written ({error}); measurements will be repeated next time"
            warn(text, DispatchTableWarning)
            return False
        return True

    def _others(self) -> dict[_Key, R]:
        """Return the rows in the file; none if this table wrote it last."""
        return {} if self._written and self._written == stamp(self.path) else self._read()[0]

    def _line(self, key: _Key) -> str:
        """Return a row's text, cached because tables of thousands of rows are saved after each row."""
        row = self._rows[key]
        known, line = self._lines.get(key, (None, ""))
        if known is not row:
            line = json.dumps(row.to_dict())
            self._lines[key] = row, line
        return line

    def _text(self) -> str:
        rows = [self._line(key) for key in sorted(self._rows)]
        machine = dataclasses.asdict(self._table_key)
        head = json.dumps({"format": self.format, "version": self.version, "machine": machine})
        # One row a line, so that people can read and diff the file.
        return head[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}\n"

    def _read(self) -> tuple[dict[_Key, R], str | None]:
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
            return _by_key(self._row(row) for row in document["rows"]), None
        except (ValueError, TypeError, KeyError) as error:
            return {}, f"{self.path}: ignored, a row is malformed ({error})"

    def _foreign(self, document: Any) -> str | None:
        if not isinstance(document, dict) or document.get("format") != self.format:
            return "not a table of SparseFlow"
        if document.get("version") != self.version:
            return f"version {document.get('version')!r}, this release reads version {self.version}"
        if document.get("machine") != dataclasses.asdict(self._table_key):
            return "measured on another machine or with other software"
        return None


def stamp(path: Path) -> Stamp | None:
    """Return a stamp of a file that changes with its contents; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _by_key(rows: Iterable[R]) -> dict[_Key, R]:
    return {(row.dtype, row.n, row.k, row.m): row for row in rows}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system drops it when a process dies, so none is ever stale."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, text: str) -> None:
    """Write a file atomically, so that readers see the old or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
