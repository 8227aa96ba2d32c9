"""Let the counters of a step's caches count in one operation."""

from __future__ import annotations

from collections import defaultdict

from torch import fx, ops
from torch.fx.node import Argument


def count_together(graph: fx.Graph) -> None:
    """Make one operation of all `counter.copy_(counter + n)` of the same n, in place.

    Each layer of a cache counts its tokens in a tensor of its own. On a GPU that is a kernel a layer, which
    inductor can't join as each may run as soon as its layer has read the counter; of one operation over
    a list of tensors it makes one kernel.

    Args:
        graph: of a step. Counters that it reads again after writing them are left alone.
    """
    written: dict[Argument, list[tuple[fx.Node, fx.Node]]] = defaultdict(list)
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        counted = _counted(node)
        if counted is not None and all(order[user] <= order[node] for user in counted[0].users):
            written[counted[1]].append((counted[0], node))
    for step, found in written.items():
        if len(found) < 2:
            continue
        with graph.inserting_after(found[-1][1]):
            counters: Argument = [counter for counter, _ in found]
            graph.call_function(ops.aten._foreach_add_.Scalar, (counters, step))
        for _, copy in found:
            added = copy.args[1]
            graph.erase_node(copy)
            if isinstance(added, fx.Node) and not added.users:
                graph.erase_node(added)


def _counted(node: fx.Node) -> tuple[fx.Node, Argument] | None:
    """Return the input that a node advances and by how much, or None."""
    if node.target is not ops.aten.copy_.default or node.users:
        return None
    counter, added = node.args[:2]
    if not isinstance(counter, fx.Node) or counter.op != "placeholder" or not isinstance(added, fx.Node):
        return None
    if added.target is not ops.aten.add.Scalar or added.args[0] is not counter or len(added.args) != 2:
        return None
    return None if added.kwargs else (counter, added.args[1])
