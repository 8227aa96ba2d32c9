"""Load artifacts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from sparseflow.errors import ArgumentError, ArtifactError
from sparseflow.runtime.artifact.class_lookup import ClassLookup
from sparseflow.runtime.artifact.contracts import decode_contract
from sparseflow.runtime.artifact.graphs import decode_graph
from sparseflow.runtime.artifact.loaded_model import LoadedModel, LoadedProgram, MakeRunner, plain_runner
from sparseflow.runtime.artifact.manifest import read_json, read_manifest, verify
from sparseflow.runtime.artifact.values import require
from sparseflow.runtime.artifact.weight_files import WeightReader
from sparseflow.runtime.tuning.gpu_identity import GpuMachine
from sparseflow.support.documents import Document

Model = TypeVar("Model", bound=LoadedModel)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    classes: Iterable[type] = (),
    make_runner: MakeRunner = plain_runner,
    kind: Callable[..., Model] = LoadedModel,  # type: ignore[assignment]  # which is the default of Model
) -> Model:
    """Load what `CompiledModel.save` wrote; nothing in it is unpickled, imported or executed as code.

    Weights on a CPU stay in the mapped files, which must not change while the model lives.

    Args:
        path: the artifact's folder.
        device: where to run, of the type the model was compiled for; by default the same device.
        classes: of objects in calls and outputs that are neither transformers' nor registered with torch's
            pytrees here; where a class is not given or imported, a stand-in has its fields.
        make_runner: makes what runs each program; by default torch.fx itself.
        kind: the class of the result, which takes the arguments of `LoadedModel`.

    Raises:
        ArtifactError: the folder isn't an artifact, or is of another version, truncated, changed or
            malformed.
        ArgumentError: the artifact was compiled for another type of device, GPU or version of cuSPARSELt.
        NativeLibraryError: it needs cuSPARSELt, which can't be used here.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    with malformed_as_error(folder):
        verify(folder, manifest)
        name, saved = require(manifest["name"], str), torch.device(require(manifest["device"], str))
        machine = None if manifest["machine"] is None else GpuMachine(**manifest["machine"])
    devices = _devices(folder, saved, device)
    if machine is not None:
        _require_same_gpu(folder, machine, GpuMachine.here(devices(str(saved))))
    with malformed_as_error(folder):
        programs, parts = _programs(folder, manifest, ClassLookup(classes), devices)
    return kind(name, folder, programs, make_runner, parts)


@contextmanager
def malformed_as_error(folder: Path) -> Iterator[None]:
    """Turn every error that malformed content can cause into an ArtifactError."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(
            f"artifact {folder}", f"it can't be understood: {type(error).__name__}: {reason}", "save it again"
        ) from error


def read_report(path: str | os.PathLike[str]) -> tuple[Document, Document]:
    """Verify an artifact and return its manifest and the report of its compilation.

    Raises:
        ArtifactError: the folder isn't an artifact, or is of another version, truncated or changed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    with malformed_as_error(folder):
        verify(folder, manifest)
        return manifest, _listed(folder, manifest, "report.json")


def _programs(
    folder: Path, manifest: Document, kinds: ClassLookup, devices: Callable[[str], torch.device]
) -> tuple[list[LoadedProgram], dict[str, list[LoadedProgram]]]:
    """Read the programs of the model, and those of its parts by name."""
    weights = WeightReader(folder, _listed(folder, manifest, "weights.json"), manifest["files"], devices)
    parts = {require(name, str): require(n, int) for name, n in require(manifest["parts"], dict).items()}
    counts = [require(manifest["programs"], int), *parts.values()]
    if min(counts) < 1:
        raise ValueError("it has no program")
    programs = []
    for i in range(sum(counts)):
        data = _listed(folder, manifest, f"program-{i}.json")
        contract = decode_contract(data["contract"], kinds, devices)
        graph = decode_graph(data["graph"], kinds, devices, weights.resolve)
        written = frozenset(require(leaf, int) for leaf in data["written"])
        programs.append(LoadedProgram(contract, graph, written, devices(manifest["device"])))
    rest = iter(programs[counts[0] :])
    return programs[: counts[0]], {name: list(islice(rest, count)) for name, count in parts.items()}


def _listed(folder: Path, manifest: Document, name: str) -> Document:
    """Read a verified file."""
    if name not in manifest["files"]:
        raise ValueError(f"it has no {name}")
    return require(read_json(folder, name), dict)


def _require_same_gpu(folder: Path, tuned: GpuMachine, here: GpuMachine) -> None:
    """Refuse another GPU or cuSPARSELt version, for which algorithm numbers have another meaning."""
    if not tuned.same_algorithms(here):
        raise ArgumentError(
            f"artifact {folder}",
            f"it was compiled for {tuned.gpu} with cuSPARSELt {tuned.cusparselt}; this machine has "
            f"{here.gpu} with {here.cusparselt}",
            "compile the model on this machine",
        )


def _devices(
    folder: Path, saved: torch.device, wanted: torch.device | str | None
) -> Callable[[str], torch.device]:
    """Map the artifact's devices to local ones: the model's own to the wanted one, others to themselves."""
    try:
        target = saved if wanted is None else torch.device(wanted)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"sf.load(device={str(wanted or saved)!r})", f"can't be used: {reason}") from None
    if target.type != saved.type:
        raise ArgumentError(
            f"sf.load(device={str(wanted)!r})",
            f"{folder} was compiled for {saved.type}, where the policies of its layers were measured",
            f"compile the model on {target.type}",
        )
    if target.type == "cuda" and target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())

    def here(name: str) -> torch.device:
        device = torch.device(require(name, str))
        return target if device == saved else device

    return here
