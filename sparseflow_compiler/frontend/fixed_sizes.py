"""Sizes that a program computes although the model left only one value for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node


def write_fixed_sizes(graph: Graph) -> None:
    """Put numbers in the place of nodes that compute a size which tracing has found to be fixed.

    torch.export takes each size for symbolic until the model asks for one value, and leaves what it had
    traced by then as it is. Passes are to see a number there, as everywhere else.
    """
    for node in reversed(graph.nodes):
        number = _fixed(node)
        if number is None or any(user.op == "output" for user in node.users):
            continue
        for user in list(node.users):
            user.args = _replaced(user.args, node, number)
            user.kwargs = _replaced(user.kwargs, node, number)
        graph.erase_node(node)


def _fixed(node: Node) -> int | None:
    """The only value of a computed int."""
    value = node.meta.get("val") if node.op == "call_function" else None
    if isinstance(value, torch.SymInt):
        return value.node.maybe_as_int()  # type: ignore[no-any-return]
    return value if type(value) is int else None


def _replaced(arguments: Any, node: Node, number: int) -> Any:
    return torch.fx.map_arg(arguments, lambda used: number if used is node else used)
