"""Dissolve regions of `with torch.no_grad()` and its like: a program has no gradients in any case."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx
from torch.export import ExportedProgram

_REGION = torch.ops.higher_order.wrap_with_set_grad_enabled


def dissolve_gradient_regions(exported: ExportedProgram) -> None:
    """Put the operators of each region in the place of its call.

    `run_decompositions` would do that too, by tracing the whole program again. It fails for regions in which
    gradients are turned on.
    """
    for old, new in _dissolve(exported.graph_module):
        exported.graph_signature.replace_all_uses(old, new)


def _dissolve(module: fx.GraphModule) -> list[tuple[str, str]]:
    """Dissolve the regions of a graph; return the names of results that have others now, with those."""
    renamed = []
    for call in module.graph.find_nodes(op="call_function", target=_REGION):
        _, body, *operands = call.args
        inner = module.get_submodule(body.target)
        assert isinstance(inner, fx.GraphModule), "the body of a region is a graph"
        _dissolve(inner)
        results = _copied(module, inner, call, operands)
        for user in list(call.users):
            assert user.target is operator.getitem, "a region returns a tuple"
            result = results[user.args[1]]
            renamed.append((user.name, result.name))
            user.replace_all_uses_with(result)
            module.graph.erase_node(user)
        module.graph.erase_node(call)
        if not body.users:
            module.graph.erase_node(body)
            module.delete_submodule(body.target)
    return renamed


def _copied(
    module: fx.GraphModule, inner: fx.GraphModule, call: fx.Node, operands: Sequence[fx.Node]
) -> Sequence[fx.Node]:
    """Copy the nodes of a region before its call; return its results."""
    copies: dict[fx.Node, fx.Node] = dict(
        zip(inner.graph.find_nodes(op="placeholder"), operands, strict=True)
    )
    with module.graph.inserting_before(call):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                found: Sequence[fx.Node] = fx.node.map_arg(node.args[0], copies.__getitem__)
                return found
            copies[node] = module.graph.node_copy(node, copies.__getitem__)
            if node.op == "get_attr":  # the body of another kind of region
                name = f"{call.name}_{node.target}".replace(".", "_")
                module.add_submodule(name, inner.get_submodule(node.target))
                copies[node].target = name
    raise AssertionError("a graph has an output")
