"""A torch.fx graph over weights that several graphs share."""

from __future__ import annotations

from torch import fx, nn


def assemble(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """A graph module over the submodules of `root` themselves.

    GraphModule copies nested attributes into modules of its own; programs share the packed weights.

    Args:
        root: holds what the graph reads.
        graph: the program.
        name: of the module's class.
    """
    module = fx.GraphModule(root, graph, name)
    for child_name, child in root.named_children():
        if hasattr(module, child_name):
            setattr(module, child_name, child)
    module.graph.lint()
    return module
