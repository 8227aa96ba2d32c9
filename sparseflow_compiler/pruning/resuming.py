"""Checkpoints of pruning, a file for each block, from which a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseflow.errors import ArgumentError
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.prune_options import PruneOptions
from sparseflow.pruning.prune_report import PrunedLayer

_SAMPLE = 1 << 14
"""Values of a tensor that its fingerprint reads at most."""


class Checkpoint:
    """A folder with parameters and report of each finished unit, the layers pruned at once.

    Args:
        path: the folder, created if missing.
        fingerprint: of the model, the data and the options.

    Raises:
        ArgumentError: the folder belongs to another run, or can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        self._path = Path(path)
        self._count = 0
        subject = f"sf.prune(checkpoint={str(path)!r})"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            run = self._path / "run.json"
            if not run.exists():
                _write_atomically(run, json.dumps({"fingerprint": fingerprint}).encode())
            found = json.loads(run.read_bytes()).get("fingerprint")
        except (OSError, ValueError) as error:
            raise ArgumentError(subject, f"can't be used: {error}", "pass another folder") from error
        if found != fingerprint:
            raise ArgumentError(
                subject,
                "holds a run of another model, other calibration data or other options",
                "pass the same as in that run, or another folder, or delete this one",
            )

    def resume(self, parameters: Mapping[str, nn.Parameter]) -> list[PrunedLayer] | None:
        """Advance to the next unit; if finished, load its `parameters` and return its report, else None."""
        from safetensors import safe_open

        self._count += 1
        if not self._file.exists():
            return None
        with safe_open(self._file, framework="pt") as stored:
            report = json.loads(stored.metadata()["layers"])
            for name, parameter in parameters.items():
                parameter.detach().copy_(stored.get_tensor(name))
        return [PrunedLayer(**layer) for layer in report]

    def save(self, parameters: Mapping[str, nn.Parameter], layers: Iterable[PrunedLayer]) -> None:
        """Save the unit that `resume` advanced to."""
        from safetensors.torch import save

        tensors = {
            name: p.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, p in parameters.items()
        }
        metadata = {"layers": json.dumps([asdict(layer) for layer in layers])}
        _write_atomically(self._file, save(tensors, metadata))

    @property
    def _file(self) -> Path:
        return self._path / f"unit-{self._count:04}.safetensors"


def fingerprint(
    model: nn.Module, calibration: Calibration, layers: Sequence[Layer], options: PruneOptions
) -> str:
    """Return a digest of everything that determines the result, sampling large tensors."""
    digest = hashlib.sha256(repr(replace(options, checkpoint=None)).encode())
    digest.update(repr([(layer.name, layer.dense) for layer in layers]).encode())
    for name, p in model.named_parameters():
        digest.update(name.encode())
        digest.update(sampled_bytes(p))
    for leaf in pytree.tree_leaves(list(calibration.calls)):
        digest.update(sampled_bytes(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
    return digest.hexdigest()


def sampled_bytes(tensor: Tensor) -> bytes:
    """Return shape, dtype and evenly sampled values of a tensor, for a fingerprint."""
    flat = tensor.detach().reshape(-1)
    sample = flat[:: -(-flat.numel() // _SAMPLE) or 1].cpu().contiguous()
    head: object = (tuple(tensor.shape), tensor.dtype)
    return repr(head).encode() + sample.view(torch.uint8).numpy().tobytes()


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically, even if the machine crashes."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
