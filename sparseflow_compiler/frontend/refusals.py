"""Explain failures of torch.export in one line, with the model's source line and a remedy."""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from sparseflow.errors import CaptureError, SparseFlowError
from sparseflow.frontend.flat_module import ModelFailure
from sparseflow.frontend.library_files import is_library_file

_REMEDIES = (
    (
        r"data-dependent|Could not guard|GuardOnDataDependent",
        "replace the Python branch on tensor values by torch.where, or bound the value with torch._check",
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
    (r"forward\(\) (missing|got|takes)", "pass the arguments that the model's forward takes"),
    (
        r"^(RuntimeError|TypeError|ValueError|IndexError)",
        _MUST_RUN := "make sure that the model runs with these inputs outside of SparseFlow",
    ),
)
_FALLBACK = "make the model exportable: torch.export.export(model, args, strict=False) shows the full report"


def capture_error(
    model: nn.Module, error: Exception, does_run: Callable[[], bool], *, records: bool = False
) -> SparseFlowError:
    """Turn an exception of torch.export into a CaptureError.

    Args:
        model: the model to capture.
        error: of torch.export.
        does_run: returns whether the model runs eagerly; only called if the remedy depends on it.
        records: whether gradients were recorded, because forward asks whether they are.
    """
    while isinstance(error, ModelFailure) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, SparseFlowError):
        return error
    text = str(error)
    reason = f"{type(error).__name__}: {essential(text)}"
    matching = (
        remedy for pattern, remedy in _REMEDIES if re.search(pattern, f"{type(error).__name__}: {text}")
    )
    line = _user_line(error, text)
    where = f", at {line}" if line else ""
    rule = f"torch.export can't capture it{where}: {reason}"
    remedy = next(matching, _FALLBACK)
    if remedy == _MUST_RUN and does_run():
        remedy = _FALLBACK
    if records:
        rule += "; gradients were on, because forward asks for them"
        remedy = f"call it under torch.no_grad(); else {remedy}"
    return CaptureError(type(model).__name__, rule, remedy)


def runs(model: nn.Module, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Return whether a copy of a model runs on copies of some inputs."""
    from sparseflow.frontend.state.clone import Clone
    from sparseflow.frontend.state.plain_tensors import PlainTensors

    try:
        copies = copy.deepcopy((tuple(args), dict(kwargs)))
        clone = Clone(model).model
        for module in clone.modules():  # the buffers of a copy are the model's own
            module._buffers.update({n: None if b is None else b.clone() for n, b in module._buffers.items()})
        plain = PlainTensors(clone)
        try:
            with torch.no_grad():
                clone(*copies[0], **copies[1])
        finally:
            plain.restore()
    except Exception:  # whatever the model raises
        return False
    return True


def essential(text: str, limit: int = 300) -> str:
    """Return the first paragraph of a message as one line."""
    paragraph = text.strip().split("\n\n")[0]
    line = " ".join(paragraph.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _user_line(error: Exception, text: str) -> str | None:
    """Return the innermost line of the traceback that belongs neither to torch nor to SparseFlow."""
    if match := re.search(r"User code:\s+File \"([^\"]+)\", line (\d+)", text):
        return f"{match[1]}:{match[2]}"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if not is_library_file(frame.filename):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return None
