"""Write artifacts: to a temporary folder first, so that a folder of that name is always complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import fx

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.contracts import encode_contract
from sparseflow.runtime.artifact.graphs import encode_graph
from sparseflow.runtime.artifact.manifest import read_manifest, seal
from sparseflow.runtime.artifact.replacing import replacing
from sparseflow.runtime.artifact.weight_files import WeightWriter
from sparseflow.runtime.calling.contract import Contract
from sparseflow.runtime.calling.signature import Signature


@dataclass(frozen=True)
class SavedProgram:
    """One program to save in an artifact.

    Attributes:
        contract: decides which calls it serves.
        signature: of the graph, which writes inputs and buffers in place.
        graph: the executed graph.
        written: the leaves of a call that it writes.
        mlir: the text of each stage.
    """

    contract: Contract
    signature: Signature
    graph: fx.GraphModule
    written: frozenset[int]
    mlir: Mapping[str, str]


def write(
    path: str | os.PathLike[str],
    programs: Sequence[SavedProgram],
    manifest: Mapping[str, object],
    documents: Mapping[str, object],
    files: Mapping[str, bytes] | None = None,
    parts: Mapping[str, Sequence[SavedProgram]] | None = None,
) -> None:
    """Write an artifact, replacing an existing one.

    Args:
        path: its folder.
        programs: in order of capture.
        manifest: the model's ``name`` and ``device``, the ``machine`` it was tuned for, and ``versions``.
        documents: further files by name, as JSON.
        files: further files, copied as they are.
        parts: the programs of functions that are called beside the model's forward, by name.

    Raises:
        ArtifactError: the path exists and isn't an artifact, or the model can't be saved.
    """
    folder = Path(path)
    require_free(folder)
    parts = parts or {}
    counts = {name: len(found) for name, found in parts.items()}
    try:
        with replacing(folder) as new:
            _write(new, [*programs, *chain.from_iterable(parts.values())], documents)
            for name, content in (files or {}).items():
                (new / name).write_bytes(content)
            seal(new, {**manifest, "programs": len(programs), "parts": counts})
    except OSError as error:
        raise ArtifactError(f"artifact {folder}", f"it can't be written: {error.strerror}") from error


def _write(folder: Path, programs: Sequence[SavedProgram], documents: Mapping[str, object]) -> None:
    weights = WeightWriter()
    for i, program in enumerate(programs):
        _write_json(folder / f"program-{i}.json", _program(program, weights))
        for stage, text in program.mlir.items():
            (folder / f"program-{i}.{stage}.mlir").write_text(text)
    _write_json(folder / "weights.json", weights.write(folder))
    for name, document in documents.items():
        _write_json(folder / name, document)


def _program(program: SavedProgram, weights: WeightWriter) -> dict[str, object]:
    return {
        "contract": encode_contract(program.contract, program.signature),
        "graph": encode_graph(program.graph, weights.place),
        "written": sorted(program.written),
    }


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content) + "\n")


def require_free(folder: Path) -> None:
    """Check that an artifact can be written to a path.

    Raises:
        ArtifactError: something other than an artifact is there, or its parent folder doesn't exist.
    """
    if not folder.absolute().parent.is_dir():
        raise ArtifactError(f"artifact {folder}", f"there is no folder {folder.parent}", "create it first")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        try:
            read_manifest(folder)
        except ArtifactError:
            raise ArtifactError(
                f"artifact {folder}", "something other than an artifact is there", "choose another name"
            ) from None
