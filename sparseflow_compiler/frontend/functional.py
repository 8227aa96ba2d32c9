"""Programs without mutation, which is what the value-semantic tensors of the Torch dialect can say."""

from __future__ import annotations

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram

_ATEN = torch.ops.aten


def functional(exported: ExportedProgram) -> ExportedProgram:
    """Return an equal program without in-place operators and without the regions that torch.export wraps.

    `run_decompositions` traces the whole program a second time. Most models need it only for the `detach_`
    after each constant that they create, which is dropped here.
    """
    for node in list(exported.graph.nodes):
        if node.target is _ATEN.detach_.default and node.args[0].target is _ATEN.lift_fresh_copy.default:
            _forward(node)
    if all(_is_functional(node) for node in exported.graph.nodes):
        return exported
    return exported.run_decompositions({})


def _forward(node: torch.fx.Node) -> None:
    """Replace a node by its input, which takes over the name: the signature refers to outputs by it."""
    source = node.all_input_nodes[0]
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)
    source.name = node.name


def _is_functional(node: torch.fx.Node) -> bool:
    if isinstance(node.target, HigherOrderOperator):
        return False
    return not (isinstance(node.target, OpOverload) and node.target._schema.is_mutable)
