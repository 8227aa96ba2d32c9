"""Replace in-place operators on unaliased tensors by their functional forms."""

from __future__ import annotations

import operator

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

_ATEN = torch.ops.aten
_ALWAYS_FRESH = (
    _ATEN.linear.default,
    _ATEN.matmul.default,
    _ATEN.scaled_dot_product_attention.default,
    _ATEN.layer_norm.default,
    _ATEN.softmax.int,
)


def replace_in_place(graph: torch.fx.Graph) -> None:
    """Replace what can be replaced without an analysis of aliases; other nodes stay as they are.

    A node is replaced if the tensor it writes is the fresh result of another operator and every other use of
    that tensor computes something new from it.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        target = functional_form(node.target)
        if target is None or not _is_private(node.args[0]) or not computes_the_same(node, target):
            continue
        written = node.args[0]
        node.target = target
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)


def functional_form(target: object) -> OpOverload | None:
    """Return `aten.add.Tensor` for `aten.add_.Tensor`, or None if there is no functional form."""
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return None
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    form: OpOverload | None = getattr(packet, target._overloadname, None)
    if not name.endswith("_") or form is None:
        return None
    names, others = ([a.name for a in op._schema.arguments] for op in (target, form))
    return form if names == others and not form._schema.is_mutable else None


def _is_private(written: object) -> bool:
    """Return whether a node's result shares memory with no other value."""
    if not isinstance(written, torch.fx.Node) or not is_fresh(written):
        return False
    return not any(may_alias(user, written) for user in written.users)


def is_fresh(node: torch.fx.Node) -> bool:
    """Return whether a node's result has memory of its own, that of none of its operands."""
    producer = _producer(node)
    if producer is None or any(r.alias_info is not None for r in producer._schema.returns):
        return False
    return not _is_implicit(producer)


def _producer(node: torch.fx.Node) -> OpOverload | None:
    """Return the operator whose result only this node refers to, or None."""
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, torch.fx.Node)
        same = [user for user in source.users if user.target is operator.getitem and user.args[1] == index]
        return source.target if len(same) == 1 and isinstance(source.target, OpOverload) else None
    return node.target if isinstance(node.target, OpOverload) else None


def may_alias(user: torch.fx.Node, used: torch.fx.Node) -> bool:
    """Return whether the result of `user` may be a view of `used`, other than by writing it."""
    if not isinstance(user.target, OpOverload):
        return user.op != "output"
    parameters = user.target._schema.arguments
    passed = [*zip(parameters, user.args, strict=False)]
    passed += [(p, user.kwargs[p.name]) for p in parameters if p.name in user.kwargs]
    marks = [parameter.alias_info for parameter, value in passed if value is used]
    if len(marks) != user.all_input_nodes.count(used):
        return True
    return any(mark is not None and not mark.is_write for mark in marks) or _is_implicit(user.target)


def _is_implicit(target: OpOverload) -> bool:
    """Return whether an operator may alias its argument beyond its schema (`reshape`, `to`)."""
    if target in _ALWAYS_FRESH:
        return False
    name = target._schema.name + f".{target._schema.overload_name}".removesuffix(".")
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))


def computes_the_same(node: torch.fx.Node, target: OpOverload) -> bool:
    """Return whether the functional form, without a result to write to, gives the same dtype and shape."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    old: object = args[0]
    assert isinstance(old, FakeTensor), "it writes a tensor"
    with old.fake_mode:
        new = target(*args, **kwargs)
    return bool(new.dtype == old.dtype and new.shape == old.shape)
