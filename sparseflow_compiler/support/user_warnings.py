"""Warnings that name the line of the user's code that led to them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import FrameType

LIBRARIES = frozenset(
    {
        "contextlib",
        "functools",
        "importlib",
        "peft",
        "sparseflow",
        "torch",
        "transformers",
    }
)
"""Top-level packages whose frames are never the user's: ours, and those that call us on the user's behalf."""


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the innermost line outside of SparseFlow and the libraries that call it.

    ``warnings.warn(stacklevel=…)`` needs the depth of the call, and that differs between, say, a plain call,
    one through ``nn.Module.__call__`` and one through ``from_pretrained``. ``skip_file_prefixes`` would do,
    but needs Python 3.12.

    Args:
        message: the text, a full sentence.
        category: the class of the warning.
    """
    frame = user_frame()
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def user_frame() -> FrameType:
    """Return the innermost frame of the user's code, or the outermost frame of a stack without any."""
    frames = list(_callers(sys._getframe(1)))
    return next((frame for frame in frames if not _is_library(frame)), frames[-1])


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_library(frame: FrameType) -> bool:
    # Generated code, such as the forward of a torch.fx graph, has globals without a name.
    name: str = frame.f_globals.get("__name__", "")
    return not name or name.partition(".")[0] in LIBRARIES
