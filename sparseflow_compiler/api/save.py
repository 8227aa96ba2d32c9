"""Saving a compiled model as an artifact."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from sparseflow.errors import NativeLibraryError
from sparseflow.passes.option_text import read_table
from sparseflow.runtime.artifact import SavedProgram, write
from sparseflow.runtime.tuning.gpu_identity import GpuMachine
from sparseflow.support.version import __version__

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program
    from sparseflow.reports.report import Report


def save(
    path: str | os.PathLike[str],
    name: str,
    device: torch.device,
    programs: Sequence[Program],
    report: Report,
    documents: Mapping[str, object],
    files: Mapping[str, bytes],
    parts: Mapping[str, Sequence[Program]],
) -> None:
    """Write an artifact; see `CompiledModel.save`."""
    content: dict[str, object] = {
        "name": name,
        "device": str(device),
        "machine": _machine(device),
        "versions": {
            "sparseflow": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    documents = {**documents, "report.json": report.to_dict(), "policies.json": _policies(programs)}
    saved = {part: [_saved(program) for program in own] for part, own in parts.items()}
    write(path, [_saved(program) for program in programs], content, documents, files, saved)


def _machine(device: torch.device) -> dict[str, str] | None:
    """Return the machine that cuSPARSELt's algorithms in the programs hold for; None without cuSPARSELt."""
    if device.type != "cuda":
        return None
    try:
        return asdict(GpuMachine.here(device))
    except NativeLibraryError:
        return None


def _policies(programs: Sequence[Program]) -> dict[str, object]:
    """Return the measured policies as `apply-policy` reads them; they are the same for all programs."""
    found: dict[str, object] = {}
    for program in programs:
        found |= read_table(program.phases.pipeline.policies or {}, "policies", "")
    return found


def _saved(program: Program) -> SavedProgram:
    return SavedProgram(
        program.captured,
        program.executable.signature,
        program.graph,
        program.written,
        {stage: str(module) for stage, module in program.phases.stages.items()},
    )
