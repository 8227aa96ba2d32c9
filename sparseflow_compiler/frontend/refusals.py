"""Why torch.export refused a model, in one line, with the line of the model and the way out."""

from __future__ import annotations

import re
import sysconfig
import traceback

import torch
from torch import nn

import sparseflow
from sparseflow.errors import CaptureError, SparseFlowError

_REMEDIES = (
    (
        r"data-dependent|Could not guard|GuardOnDataDependent",
        "replace the Python branch on tensor values by torch.where or torch.cond, "
        "or bound the value with torch._check",
    ),
    (r"Attempting to use FunctionalTensor|assigned during export", "register the tensor as a buffer"),
    (
        r"[Uu]nsupported input type|pytree",
        "pass tensors, numbers, strings and containers of them; "
        "register other containers with torch.utils._pytree.register_pytree_node",
    ),
    (
        r"Constraints violated|dynamic_shapes",
        "give the sizes that are fixed as such in dynamic_shapes, or leave dynamic_shapes out",
    ),
    (r"missing \d+ required|unexpected keyword|multiple values", "call it as the model's forward is called"),
)
_FALLBACK = "make the model exportable: torch.export.export(model, args, strict=False) shows the full report"


def capture_error(model: nn.Module, error: Exception) -> SparseFlowError:
    """Turn an exception of torch.export into a CaptureError."""
    if isinstance(error, SparseFlowError):
        return error
    text = str(error)
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), _FALLBACK)
    line = _user_line(error, text)
    where = f", at {line}" if line else ""
    return CaptureError(
        type(model).__name__,
        f"torch.export can't capture it{where}: {type(error).__name__}: {essential(text)}",
        remedy,
    )


def essential(text: str, limit: int = 300) -> str:
    """The first paragraph of a report, on one line."""
    paragraph = text.strip().split("\n\n")[0]
    line = " ".join(paragraph.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _user_line(error: Exception, text: str) -> str | None:
    """The innermost line of the traceback that belongs neither to torch nor to SparseFlow."""
    if match := re.search(r"User code:\s+File \"([^\"]+)\", line (\d+)", text):
        return f"{match[1]}:{match[2]}"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if not is_library_file(frame.filename):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return None


def is_library_file(filename: str) -> bool:
    """Whether a file belongs to torch, Python or SparseFlow, or is no file at all."""
    if filename.startswith(("<", torch.__path__[0], sparseflow.__path__[0])):
        return True
    return filename.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in filename
