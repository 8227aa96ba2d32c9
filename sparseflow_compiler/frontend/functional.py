"""Remove mutation from programs, which value-semantic tensors can't express."""

from __future__ import annotations

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram

from sparseflow.errors import CaptureError
from sparseflow.frontend.functional_writes import replace_writes
from sparseflow.frontend.gradient_regions import dissolve_gradient_regions
from sparseflow.frontend.in_place import replace_in_place
from sparseflow.frontend.view_writes import replace_view_writes
from sparseflow.runtime.calling.ambient import autocast_is_on

_ATEN = torch.ops.aten
_PRODUCTS_INSIDE = (
    *(_ATEN.einsum.default, _ATEN.tensordot.default, _ATEN.inner.default, _ATEN.linalg_multi_dot.default),
    *(_ATEN.kron.default, _ATEN.chain_matmul.default),
)
"""Operators made of products that autocast casts, although it doesn't cast the operators themselves."""


# Without users torch.fx would drop it, and with it the error that the model raises.
torch.fx.node.has_side_effect(_ATEN._assert_async.default)


def functional(exported: ExportedProgram) -> ExportedProgram:
    """Return an equal program without in-place operators, regions that torch.export wraps, and transforms.

    `run_decompositions` traces the whole program a second time, which takes longer than the first. Most
    models would need it only for the `detach_` of each constant, which changes no data, for a few in-place
    operators that have functional forms, also on parts of a tensor that a loop fills, and for writes to a
    cache; these are replaced directly. Under
    autocast it is always needed, because only the second trace contains the casts.

    Raises:
        CaptureError: an operator computes with products that autocast casts.
    """
    dissolve_gradient_regions(exported)
    _complete_users(exported.graph)
    for node in exported.graph.nodes:
        if node.target is _ATEN.detach_.default:
            node.target = _ATEN.detach.default
    replace_in_place(exported.graph)
    if not autocast_is_on():
        replace_view_writes(exported)
    replace_writes(exported)
    if not autocast_is_on() and all(_is_functional(node) for node in exported.graph.nodes):
        return exported
    _require_castable(exported)
    _cast_copies(exported.graph)
    decomposed: ExportedProgram = exported.run_decompositions({})
    return decomposed


def _complete_users(graph: torch.fx.Graph) -> None:
    """Enter every user of a node among its users: torch.export leaves some out where it inlines a region."""
    for node in graph.nodes:
        for source in node.all_input_nodes:
            source.users.setdefault(node, None)


def _cast_copies(graph: torch.fx.Graph) -> None:
    """Cast what `copy_` reads of another dtype: traced again under autocast, torch 2.13 loses that cast."""
    for node in graph.nodes:
        if node.target is not _ATEN.copy_.default:
            continue
        written, read = (arg.meta.get("val") for arg in node.args[:2])
        if written is not None and read is not None and written.dtype != read.dtype:
            with graph.inserting_before(node):
                cast = graph.call_function(_ATEN._to_copy.default, (node.args[1],), {"dtype": written.dtype})
            cast.meta = {**node.args[1].meta, "val": read.to(written.dtype)}
            node.replace_input_with(node.args[1], cast)


def _require_castable(exported: ExportedProgram) -> None:
    """Refuse casts of autocast inside an operator, which tracing doesn't see.

    Raises:
        CaptureError: names the operator.
    """
    for node in exported.graph.nodes if autocast_is_on() else ():
        if node.target in _PRODUCTS_INSIDE:
            raise CaptureError(
                str(node.target),
                "under autocast its products run in another dtype, which a captured program can't follow",
                "write it as linear or matmul, or turn autocast off around the call",
            )


def _is_functional(node: torch.fx.Node) -> bool:
    if isinstance(node.target, HigherOrderOperator) or _is_part_of_transform(node.target):
        return False
    return not (isinstance(node.target, OpOverload) and node.target._schema.is_mutable)


def _is_part_of_transform(target: object) -> bool:
    """Return whether a node enters or leaves a torch.func transform; retracing resolves those."""
    return getattr(target, "__module__", None) == "torch._functorch.predispatch"
