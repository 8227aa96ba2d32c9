"""Replace writes to parts of a fresh tensor, as ``states[:, t] = state`` in a loop makes them."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx.node import Argument

from sparseflow.frontend.functional_writes import name_results
from sparseflow.frontend.in_place import computes_the_same, functional_form, is_fresh, may_alias

_ATEN = torch.ops.aten
_SCATTERS: dict[object, OpOverload] = {
    _ATEN.select.int: _ATEN.select_scatter.default,
    _ATEN.slice.Tensor: _ATEN.slice_scatter.default,
}
"""Views of a part of a tensor, and what gives the whole with another part."""

_Order = dict[torch.fx.Node, int]


def replace_view_writes(exported: ExportedProgram) -> None:
    """Replace in-place operators on views by new parts, and what is read later by the whole with them.

    The result is that of `run_decompositions`. A tensor is left alone if a view of it that was made before a
    write is read after it, if it may be viewed in other ways before the last one, or if a write has no
    functional form.
    """
    graph = exported.graph
    bases = [node for node in graph.nodes if is_fresh(node)] if any(map(_is_mutable, graph.nodes)) else []
    for base in bases:
        aliases = _aliases(base)
        writes = {user for alias in aliases for user in alias.users if _may_write(user, aliases)}
        if writes:
            order = {node: position for position, node in enumerate(graph.nodes)}
            in_order = sorted(writes, key=order.__getitem__)
            if _replaceable(aliases, in_order, order):
                _replace(base, in_order, order)
    name_results(exported)


def _aliases(base: torch.fx.Node) -> list[torch.fx.Node]:
    """Return a node and all whose memory may be its own."""
    found = [base]
    for node in found:
        found += [user for user in node.users if may_alias(user, node) and user not in found]
    return found


def _is_mutable(node: torch.fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and bool(node.target._schema.is_mutable)


def _may_write(node: torch.fx.Node, aliases: list[torch.fx.Node]) -> bool:
    """Return whether a node that reads one of some tensors may write one of them."""
    if not _is_mutable(node):
        return False
    return functional_form(node.target) is None or any(node.args[0] is alias for alias in aliases)


def _replaceable(aliases: list[torch.fx.Node], writes: list[torch.fx.Node], order: _Order) -> bool:
    last = order[writes[-1]]
    views = [node for node in aliases[1:] if order[node] < last]
    if any(view.target not in _SCATTERS for view in views):
        return False
    for write, following in zip(writes, [*writes[1:], None], strict=True):
        target, now = functional_form(write.target), order[write]
        if target is None or write.args[0] not in views or not computes_the_same(write, target):
            return False
        if any(view in write.kwargs.values() for view in aliases):
            return False
        if any(order[view] < now and any(order[user] > now for user in view.users) for view in views):
            return False
        # It returns the view.
        end = len(order) if following is None else order[following]
        if any(may_alias(user, write) or order[user] > end for user in write.users):
            return False
        if any(_is_mutable(user) and write in user.args[:1] for user in write.users):
            return False
    return True


def _replace(base: torch.fx.Node, writes: list[torch.fx.Node], order: _Order) -> None:
    whole = base
    for write in writes:
        part = write.args[0]
        assert isinstance(part, torch.fx.Node)
        target = functional_form(write.target)
        assert target is not None
        values = torch.fx.node.map_arg((write.args, write.kwargs), lambda n: n.meta["val"])
        with write.meta["val"].fake_mode:
            value = target(*values[0], **values[1])
        new = _insert(write, target, write.args, write.kwargs, value)
        write.replace_all_uses_with(new)
        while part is not whole:
            source, *place = part.args
            assert isinstance(source, torch.fx.Node)
            scatter = _SCATTERS[part.target]
            with write.meta["val"].fake_mode:
                value = torch.empty_like(source.meta["val"])
            new = _insert(write, scatter, (source, new, *place), part.kwargs, value)
            part = source
        for user in list(whole.users):
            if order.get(user, 0) > order[write]:
                user.replace_input_with(whole, new)
        whole = new
        write.graph.erase_node(write)


def _insert(
    before: torch.fx.Node,
    target: OpOverload,
    args: tuple[Argument, ...],
    kwargs: dict[str, Argument],
    value: object,
) -> torch.fx.Node:
    """Insert an operator where a write is, with what it gives."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args, kwargs)
    node.meta = {name: noted for name, noted in before.meta.items() if name != "tensor_meta"}
    node.meta["val"] = value
    return node
