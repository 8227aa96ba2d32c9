"""The file from which a killed recovery goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.pruning.resuming import sampled_bytes

VERSION = 3


class RecoveryFile:
    """A checkpoint of one recovery.

    Args:
        path: of the file; its folder exists.
        fingerprint: of the models and the options.

    Raises:
        ArgumentError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        self._path, self._fingerprint = Path(path), fingerprint
        self._subject = f"sf.recover(checkpoint={str(path)!r})"
        if not self._path.absolute().parent.is_dir() or self._path.is_dir():
            raise ArgumentError(self._subject, "is no file in a folder that exists", "name one")

    def read(self) -> dict[str, object] | None:
        """Return what was saved last; None if nothing was.

        Raises:
            ArgumentError: the file is of another run.
            CheckpointError: it can't be read.
        """
        if not self._path.exists():
            return None
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            version, mark = found["version"], found["fingerprint"]
        except Exception as error:  # torch.load raises errors of many classes
            reason = f"can't be read: {type(error).__name__}: {error}"
            raise CheckpointError(self._subject, reason, "delete it to start anew") from error
        if version != VERSION or mark != self._fingerprint:
            raise ArgumentError(
                self._subject,
                "holds a run of other models, other options or another version",
                "pass the same as in that run, or another file, or delete this one",
            )
        return dict(found)

    def write(self, state: Mapping[str, object]) -> None:
        """Save a state in place of the last, in one step even if the machine crashes.

        Raises:
            CheckpointError: it can't be written.
        """
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save({"version": VERSION, "fingerprint": self._fingerprint, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise CheckpointError(
                self._subject, f"can't be written: {error}", "free space, or name another file"
            ) from error


def fingerprint(model: nn.Module, dense: nn.Module, options: object) -> str:
    """Return a digest of both models' weights, large ones sampled, and of the options."""
    digest = hashlib.sha256(repr(options).encode())
    for side in (model, dense):
        for name, parameter in side.named_parameters():
            digest.update(name.encode())
            digest.update(sampled_bytes(parameter))
    return digest.hexdigest()
