"""Make writes to a program's inputs and buffers functional, with the new value as a result."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.fx.node import Argument

from sparseflow.frontend.in_place import computes_the_same, functional_form, may_alias

_RESULTS = {
    InputKind.BUFFER: OutputKind.BUFFER_MUTATION,
    InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION,
}

_Write = tuple[torch.fx.Node, OpOverload]
_ATEN = torch.ops.aten
_CONVERSIONS = (_ATEN.to.dtype, _ATEN.to.device, _ATEN.to.dtype_layout)


def replace_writes(exported: ExportedProgram) -> None:
    """Replace writes to inputs and buffers by new tensors, which the program returns before its results.

    The result is that of `run_decompositions`. The program stays unchanged if any write can't be replaced:
    one to a tensor of which a view may exist by then, or by an operator without a functional form.
    """
    writing = [node for node in exported.graph.nodes if _writes_something(node)]
    if not writing:
        return
    _drop_conversions(exported.graph)
    name_results(exported)
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if spec.kind in _RESULTS}
    order = {node: position for position, node in enumerate(exported.graph.nodes)}
    given = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in specs]
    writes = {tensor: found for tensor in given if (found := _writes(tensor, order))}
    if sum(map(len, writes.values())) == len(writing):
        last = {tensor: _replace(tensor, found, order) for tensor, found in writes.items()}
        _return(exported, [(specs[tensor.name], node) for tensor, node in last.items()])


def _writes_something(node: torch.fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and bool(node.target._schema.is_mutable)


def _drop_conversions(graph: torch.fx.Graph) -> None:
    """Make users of a conversion without effect read its operand instead, which it would return."""
    for node in graph.nodes:
        if node.target not in _CONVERSIONS or node.kwargs.get("copy") or True in node.args:
            continue
        if "memory_format" in node.kwargs or any(isinstance(arg, torch.memory_format) for arg in node.args):
            continue
        source = node.args[0]
        assert isinstance(source, torch.fx.Node)
        old, new = source.meta["val"], node.meta["val"]
        alike = (old.dtype, old.device, old.layout) == (new.dtype, new.device, new.layout)
        if alike:
            node.replace_all_uses_with(source)


def _replace(tensor: torch.fx.Node, writes: list[_Write], order: dict[torch.fx.Node, int]) -> torch.fx.Node:
    """Replace the writes to a placeholder; return the node of its final value."""
    current = tensor
    for node, target in writes:
        node.target = target
        for user in list(current.users):
            if order[user] > order[node]:
                user.replace_input_with(current, node)
        current = node
    return current


def _writes(tensor: torch.fx.Node, order: dict[torch.fx.Node, int]) -> list[_Write]:
    """Return the writes to a placeholder in order, each with its functional form; none if one has none."""
    readers = {(user, tensor) for user in tensor.users}
    found: list[_Write] = []
    for node in sorted(tensor.users, key=order.__getitem__):
        if not _writes_something(node):
            continue
        target = functional_form(node.target)
        if target is None or node.args[0] is not tensor or not computes_the_same(node, target):
            return []
        if any(order[user] < order[node] and _may_be_view(user, used) for user, used in readers):
            return []
        found.append((node, target))
        readers |= {(user, node) for user in node.users}  # it returns the tensor itself
    return found


def _may_be_view(user: torch.fx.Node, used: torch.fx.Node) -> bool:
    return isinstance(user.meta.get("val"), torch.Tensor) and bool(user.users) and may_alias(user, used)


def _return(exported: ExportedProgram, changed: list[tuple[InputSpec, torch.fx.Node]]) -> None:
    """Return the final values of written inputs as the program's first results."""
    name_results(exported)
    exported.graph.output_node().args = ((*(node for _, node in changed), *_results(exported)),)
    new = [
        OutputSpec(
            _RESULTS[spec.kind],
            TensorArgument(name=node.name),
            spec.target if spec.kind is InputKind.BUFFER else spec.arg.name,
        )
        for spec, node in changed
    ]
    exported.graph_signature.output_specs[:0] = new


def name_results(exported: ExportedProgram) -> None:
    """Update the names of the returned nodes in the signature."""
    for spec, node in zip(exported.graph_signature.output_specs, _results(exported), strict=True):
        if isinstance(node, torch.fx.Node) and isinstance(spec.arg, TensorArgument):
            spec.arg = TensorArgument(name=node.name)


def _results(exported: ExportedProgram) -> tuple[Argument, ...]:
    """Return what the program returns."""
    (results,) = exported.graph.output_node().args
    assert isinstance(results, (list, tuple))
    return tuple(results)
