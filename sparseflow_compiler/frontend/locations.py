"""Source locations of operations: module path and source line."""

from __future__ import annotations

import re

import torch
from torch_mlir import ir

from sparseflow.frontend.flat_module import PREFIX
from sparseflow.frontend.library_files import is_library_file

_FRAME = re.compile(r'File "([^"]+)", line ([0-9]+)')


def source_line(node: torch.fx.Node) -> tuple[str, int] | None:
    """Return the innermost line of the model's own code that led to `node`."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not is_library_file(frame[0])]
    return (own[-1][0], int(own[-1][1])) if own else None


def module_path(node: torch.fx.Node) -> str:
    """Return the name of the innermost module that `node` belongs to, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path).removeprefix(PREFIX) if path != PREFIX.rstrip(".") else ""


def location(node: torch.fx.Node, context: ir.Context) -> ir.Location:
    """Return the location of the operation that `node` becomes: its module's path around its source line."""
    line = source_line(node)
    inner = ir.Location.file(line[0], line[1], 0, context) if line else ir.Location.unknown(context)
    path = module_path(node)
    return ir.Location.name(path, inner, context) if path else inner
