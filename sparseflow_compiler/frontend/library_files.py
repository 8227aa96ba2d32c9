"""Tell the files of a model's own code from those of libraries."""

from __future__ import annotations

import functools
import sysconfig
from pathlib import Path

import torch

_STDLIB = sysconfig.get_path("stdlib")
_SPARSEFLOW = str(Path(__file__).parent.parent)


@functools.cache
def is_library_file(filename: str) -> bool:
    """Return whether a file belongs to torch, Python or SparseFlow, or isn't a file at all."""
    if filename.startswith(("<", torch.__path__[0], _SPARSEFLOW)):
        return True
    return filename.startswith(_STDLIB) and "site-packages" not in filename
