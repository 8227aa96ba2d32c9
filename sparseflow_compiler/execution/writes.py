"""Make in-place writes of a program part of its graph, visible to compilers and CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, ops

from sparseflow.runtime.calling.signature import ResultKind, Signature


def write_in_graph(
    graph: fx.GraphModule, signature: Signature, buffers: Mapping[str, Tensor]
) -> tuple[Signature, frozenset[int]]:
    """Add writes of inputs and buffers to a lowered graph, instead of returning their new values.

    Args:
        graph: takes the leaves of a call and returns the results of `@main`; changed in place.
        signature: says which results are new values.
        buffers: the model's own tensors by name.

    Returns:
        The new signature of the graph, and the leaves that it writes.
    """
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    results = list(zip(signature.results, output.args[0], strict=True))
    with graph.graph.inserting_before(output):
        for result, value in results:
            if result.kind is ResultKind.INPUT:
                target = placeholders[int(result.target or 0)]
            elif result.kind is ResultKind.BUFFER:
                target = _buffer_node(graph, buffers[str(result.target)])
            else:
                continue
            if not _write_where_it_is(target, value):
                graph.graph.call_function(ops.aten.copy_.default, (target, value))
    output.args = (tuple(value for result, value in results if result.kind is ResultKind.OUTPUT),)
    graph.recompile()
    kept = tuple(result for result, _ in results if result.kind is ResultKind.OUTPUT)
    written = (int(r.target or 0) for r, _ in results if r.kind is ResultKind.INPUT)
    return replace(signature, results=kept), frozenset(written)


def _write_where_it_is(target: fx.Node, value: fx.Node) -> bool:
    """Write single rows of a cache in place if nothing reads the old ones, which saves a full copy."""
    copies = value.target is ops.aten.index_copy.default and value.args[0] is target
    others = {user for user in target.users if user is not value}
    if not copies or any(user.target is not ops.aten.sym_size.int for user in others):
        return False
    value.target = ops.aten.index_copy_.default
    return True


def _buffer_node(graph: fx.GraphModule, tensor: Tensor) -> fx.Node:
    """Return the single node that reads and writes a tensor of the model, as compilers expect."""
    for node in graph.graph.nodes:
        if node.op == "get_attr" and _is_same(graph.get_buffer(node.target), tensor):
            found: fx.Node = node
            return found
    name = f"written_{sum(1 for _ in graph.buffers())}"
    graph.register_buffer(name, tensor.detach())
    return graph.graph.get_attr(name)


def _is_same(held: Tensor, tensor: Tensor) -> bool:
    return held.data_ptr() == tensor.data_ptr() and held.shape == tensor.shape
