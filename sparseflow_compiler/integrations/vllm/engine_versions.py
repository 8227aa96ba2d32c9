"""Which versions of vLLM the method was tested with."""

from __future__ import annotations

import functools
import warnings

from sparseflow.errors import UntestedVersionWarning
from sparseflow.support.releases import release

OLDEST, NEWEST = (0, 26), (0, 32)
SUPPORTED = "0.26 … 0.32"
"""`OLDEST` and `NEWEST` as messages have them: 0.26 on a GPU, 0.32 on a CPU."""


@functools.cache
def warn_if_untested(version: str) -> None:
    """Warn, once in a process, about a vLLM that is older or newer than what was tested."""
    found = release(version)[:2]
    if OLDEST <= found <= NEWEST:
        return
    outside = "older" if found < OLDEST else "newer"
    warnings.warn(
        f"vLLM {version} is {outside} than what SparseFlow was tested with ({SUPPORTED}); "
        "if something fails, install one of those",
        UntestedVersionWarning,
        stacklevel=2,
    )
