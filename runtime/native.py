"""Loading of the native library, which registers the ``sparseflow::*`` operators with torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from sparseflow.errors import NativeLibraryError

ENVIRONMENT = "SPARSEFLOW_LIBRARY"
"""The environment variable with the path of another build of the library, such as one with sanitizers."""

LIBRARY = Path(__file__).with_name("libsparseflow_runtime.so")


def library_path() -> Path:
    """Return the path of the native library.

    That is the one that the environment names, else the one beside this file, else the one in another folder
    of an editable install.

    Raises:
        NativeLibraryError: the library isn't installed.
    """
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    if LIBRARY.exists():
        return LIBRARY
    import sparseflow.runtime

    for folder in sparseflow.runtime.__path__:
        candidate = Path(folder) / LIBRARY.name
        if candidate.exists():
            return candidate
    raise NativeLibraryError(
        "sparseflow.runtime",
        f"the native library {LIBRARY.name} is not installed beside {Path(__file__).parent}",
        "build it with: pip install --no-build-isolation .",
    )


@functools.cache
def load() -> None:
    """Register the native operators; calls after the first do nothing.

    Raises:
        NativeLibraryError: the library is missing, or torch refuses to load it.
    """
    path = library_path()
    load_library: Callable[[str], None] = torch.ops.load_library  # untyped in torch
    try:
        load_library(str(path))
    except OSError as error:
        raise NativeLibraryError(
            "sparseflow.runtime",
            f"{path.name} does not load: {error}",
            "rebuild it against the installed torch: pip install --no-build-isolation --force-reinstall .",
        ) from error
