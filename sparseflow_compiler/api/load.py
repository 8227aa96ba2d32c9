"""`sparseflow.load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from sparseflow.api.inner import make_runner
from sparseflow.api.options import CompileOptions, Inner, Mode
from sparseflow.runtime import artifact


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    inner: Inner = "auto",
    mode: Mode | None = None,
    classes: Iterable[type] = (),
) -> artifact.LoadedModel:
    """Load what `CompiledModel.save` wrote, and run it without the compiler and without the model's code.

    Nothing in an artifact is unpickled, imported or executed as code. It serves the calls that were captured
    before it was saved. Weights on a CPU stay in the mapped files, which must not change while the model
    lives.

    Args:
        path: the artifact's folder.
        device: where to run, of the type the model was compiled for; by default the same device.
        inner: what runs the graphs, as `sparseflow.compile` has it.
        mode: as `sparseflow.compile` has it.
        classes: of objects in calls and outputs that are neither transformers' nor registered with torch's
            pytrees here; where a class is not given or imported, a stand-in has its fields.

    Returns:
        A module called like the model, with `report`, `mlir()` and `graph()`.

    Raises:
        ArtifactError: the folder is no artifact, of a newer version, truncated, changed or malformed.
        ArgumentError: an option has a wrong value, or the artifact was compiled for another type of device,
            GPU or version of cuSPARSELt.
        NativeLibraryError: it needs cuSPARSELt, which can't be used here.
    """
    options = CompileOptions(inner=inner, mode=mode)

    def runner(program: artifact.LoadedProgram) -> tuple[Callable[..., Any], bool]:
        made = make_runner(program.graph, options, program.device, program.written, program.grows)
        return made.run, made.inductor is None

    return artifact.load(path, device=device, classes=classes, make_runner=runner)
