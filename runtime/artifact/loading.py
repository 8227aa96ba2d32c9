"""Reads an artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparseflow.errors import ArgumentError, ArtifactError
from sparseflow.runtime.artifact.contracts import decode_contract
from sparseflow.runtime.artifact.graphs import decode_graph
from sparseflow.runtime.artifact.kinds import Kinds
from sparseflow.runtime.artifact.manifest import read_json, read_manifest, verify
from sparseflow.runtime.artifact.model import LoadedModel, LoadedProgram, MakeRunner, plain_runner
from sparseflow.runtime.artifact.values import require
from sparseflow.runtime.artifact.weights import WeightReader


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    classes: Iterable[type] = (),
    make_runner: MakeRunner = plain_runner,
) -> LoadedModel:
    """Load what `CompiledModel.save` wrote; nothing in it is unpickled, imported or executed as code.

    Weights on a CPU stay in the mapped files, which must not change while the model lives.

    Args:
        path: the artifact's folder.
        device: where to run, of the type the model was compiled for; by default the same device.
        classes: of objects in calls and outputs that are neither transformers' nor registered with torch's
            pytrees here; where a class is not given or imported, a stand-in has its fields.
        make_runner: what runs each program; by default torch.fx as it is.

    Raises:
        ArtifactError: the folder is no artifact, of a newer version, truncated, changed or malformed.
        ArgumentError: the artifact was compiled for another type of device.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    with _understood(folder):
        verify(folder, manifest)
        name, saved = require(manifest["name"], str), torch.device(require(manifest["device"], str))
    devices = _devices(folder, saved, device)
    with _understood(folder):
        programs = _programs(folder, manifest, Kinds(classes), devices)
    return LoadedModel(name, folder, programs, make_runner)


@contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """Every way in which forged content can fail to make sense becomes one refusal."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(
            f"artifact {folder}", f"it can't be understood: {type(error).__name__}: {reason}", "save it again"
        ) from error


def _programs(
    folder: Path, manifest: Mapping[str, Any], kinds: Kinds, devices: Callable[[str], torch.device]
) -> list[LoadedProgram]:
    weights = WeightReader(folder, _listed(folder, manifest, "weights.json"), manifest["files"], devices)
    programs = []
    for i in range(require(manifest["programs"], int)):
        data = _listed(folder, manifest, f"program-{i}.json")
        contract = decode_contract(data["contract"], kinds, devices)
        graph = decode_graph(data["graph"], kinds, devices, weights.resolve)
        written = frozenset(require(leaf, int) for leaf in data["written"])
        programs.append(LoadedProgram(contract, graph, written, devices(manifest["device"])))
    if not programs:
        raise ValueError("it has no program")
    return programs


def _listed(folder: Path, manifest: Mapping[str, Any], name: str) -> Any:
    """A file that was verified."""
    if name not in manifest["files"]:
        raise ValueError(f"it has no {name}")
    return read_json(folder, name)


def _devices(
    folder: Path, saved: torch.device, wanted: torch.device | str | None
) -> Callable[[str], torch.device]:
    """Where the artifact's devices are here: the model's own moves, others stay."""
    try:
        target = saved if wanted is None else torch.device(wanted)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"sf.load(device={str(wanted or saved)!r})", f"can't be used: {reason}") from None
    if target.type != saved.type:
        raise ArgumentError(
            f"sf.load(device={str(wanted)!r})",
            f"{folder} was compiled for {saved.type}: where each layer is fast was measured there",
            f"compile the model on {target.type}",
        )
    if target.type == "cuda" and target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())

    def here(name: str) -> torch.device:
        device = torch.device(require(name, str))
        return target if device == saved else device

    return here
