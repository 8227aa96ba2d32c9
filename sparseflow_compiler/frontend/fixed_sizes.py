"""Replace computed sizes that have only one possible value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Graph, Node
from torch.utils._sympy.symbol import SymT, symbol_is_type

if TYPE_CHECKING:
    from torch.fx.node import ArgumentT

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)
_READS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
_UNBACKED = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)


def write_fixed_sizes(graph: Graph) -> None:
    """Replace nodes that compute a size which tracing found to be fixed by its value.

    torch.export treats each size as symbolic until the model needs its value, and doesn't update the nodes
    traced before. Passes expect a number there, as everywhere else. Sizes that are fixed only because the
    model asserts it of its data stay, because a call may violate the assertion.
    """
    of_data = _numbers_of_data(graph)
    for node in reversed(graph.nodes):
        number = _fixed(node)
        if number is None or any(user.op == "output" for user in node.users):
            continue
        for user in list(node.users):
            if node not in of_data or not (_is_number(user) or _asserts(user)):
                user.args = _replaced(user.args, node, number)
                user.kwargs = _replaced(user.kwargs, node, number)
        if not node.users:
            graph.erase_node(node)


def _numbers_of_data(graph: Graph) -> set[Node]:
    """Return the nodes that compute data-dependent numbers."""
    found = set[Node]()
    for node in graph.nodes:
        if not _is_number(node):
            continue
        if (
            node.target in _READS
            or _is_unbacked(node.meta["val"])
            or not found.isdisjoint(node.all_input_nodes)
        ):
            found.add(node)
    return found


def _is_unbacked(number: object) -> bool:
    """Return whether a number was traced as data-dependent, even if it is known by now."""
    if not isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return False
    return any(symbol_is_type(symbol, _UNBACKED) for symbol in number.node._expr.free_symbols)


def _is_number(node: Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), _NUMBERS)


def _asserts(node: Node) -> bool:
    return node.target is torch.ops.aten._assert_scalar.default


def _fixed(node: Node) -> int | None:
    """Return the only possible value of a computed int, or None."""
    value = node.meta.get("val") if node.op == "call_function" else None
    if isinstance(value, torch.SymInt):
        return value.node.maybe_as_int()  # type: ignore[no-any-return]
    return value if type(value) is int else None


def _replaced(arguments: ArgumentT, node: Node, number: int) -> ArgumentT:
    return torch.fx.map_arg(arguments, lambda used: number if used is node else used)
