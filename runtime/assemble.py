"""A torch.fx graph over weights that several graphs share."""

from __future__ import annotations

from torch import fx, nn


def assemble(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """Return a graph module that shares the submodules of `root`.

    The constructor of GraphModule copies nested attributes into new modules, but programs share packed
    weights.

    Args:
        root: the module whose parameters, buffers and submodules the graph reads.
        graph: the program.
        name: the name of the graph module's class.
    """
    module = fx.GraphModule(root, graph, name)
    for child_name, child in root.named_children():
        if hasattr(module, child_name):
            setattr(module, child_name, child)
    module.graph.lint()
    return module
