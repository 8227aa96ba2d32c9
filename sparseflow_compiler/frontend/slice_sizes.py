"""Handle sizes of slices that torch 2.11 can't infer."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node
from torch.utils._sympy.symbol import SymT, symbol_is_type

_ATEN = torch.ops.aten
_ASSERTS = _ATEN._assert_scalar.default


def drop_slice_assertions(graph: Graph) -> None:
    """Remove assertions on sizes of slices and nodes that only they use.

    If a slice may end beyond the tensor, torch 2.11 treats its size as data-dependent and asserts what the
    model needs of it, such as equality with the size of another summand. The operators check that themselves,
    and neither passes nor artifacts support such assertions. Assertions of the model on its data stay.
    """
    asserted = graph.find_nodes(op="call_function", target=_ASSERTS)
    of_slices = _symbols_of_slices(graph) if asserted else set()
    if not of_slices:
        return
    for node in reversed(graph.nodes):
        asserts = node.target is _ASSERTS and _unknown(node.args[0]) <= of_slices
        if asserts or (not node.users and _is_number(node)):
            graph.erase_node(node)


def _symbols_of_slices(graph: Graph) -> set[object]:
    """Return the data-dependent symbols of slices: their sizes and starts."""
    seen, found = set[object](), set[object]()
    for node in graph.nodes:
        new = _unknown(node) - seen
        seen |= new
        if node.target is _ATEN.slice.Tensor:
            found |= new
    return found


def _unknown(argument: object) -> set[object]:
    """Return the data-dependent symbols in a number, or a tensor's shape and offset."""
    value = argument.meta.get("val") if isinstance(argument, Node) else argument
    numbers: tuple[object, ...] = (value,)
    if isinstance(value, torch.Tensor):
        numbers = (*value.shape, *([value.storage_offset()] if value.layout is torch.strided else ()))
    symbolic = [number for number in numbers if isinstance(number, (torch.SymInt, torch.SymBool))]
    symbols = {symbol for number in symbolic for symbol in number.node._expr.free_symbols}
    return {symbol for symbol in symbols if symbol_is_type(symbol, SymT.UNBACKED_INT)}


def _is_number(node: Node) -> bool:
    """Return whether a node computes a number."""
    value = node.meta.get("val") if node.op == "call_function" else None
    return isinstance(value, (torch.SymInt, torch.SymBool, int, bool))
