"""Kernels of inductor that launch what follows while they run (programmatic dependent launch, from sm_90 on).

A product then loads its weight while the norm before it still runs. inductor has each kernel wait for those
before it ahead of what it reads. A kernel that reads nothing waits for none, and could write into memory that
is still read: a program that may have one is launched kernel by kernel.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, fx

EARLY = "triton.enable_pdl"
"""inductor's option."""

LAST_PASS = "post_grad_custom_post_pass"
"""inductor's option for a pass over the graph that it makes kernels of."""

_NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_SIZES = (int, torch.SymInt)


def early_launches() -> dict[str, object]:
    """Return the options of inductor under which it launches early where it may."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class RequireReads(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            require_reads(graph)

        def uuid(self) -> str:
            return version()

    return {EARLY: True, LAST_PASS: RequireReads()}


def require_reads(graph: fx.Graph) -> None:
    """Have inductor, which is compiling a graph, launch nothing early if a kernel of it may read nothing.

    Args:
        graph: of single operators.
    """
    if why_not_early(graph):
        torch._inductor.config.triton.enable_pdl = False  # until this program is compiled


def version() -> str:
    """Return by what inductor's cache tells programs of another version of this module."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def why_not_early(graph: fx.Graph) -> str:
    """Return what of a graph may become a kernel that reads nothing; empty if nothing does.

    That is what is made of constants alone, unless element-wise operators and views are all that read it:
    inductor computes it within theirs.
    """
    made: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = [given for given in node.all_input_nodes if not isinstance(given.meta.get("val"), _SIZES)]
        if node.op != "call_function" or not made.issuperset(inputs) or not _computes(node):
            continue
        made.add(node)
        for reader in node.users:
            if not _computes_what_it_reads(reader):
                return f"{node.name}, which {reader.name} reads"
    return ""


def _computes(node: fx.Node) -> bool:
    """Return whether a node gives a tensor with values."""
    packet = getattr(node.target, "overloadpacket", None)
    return isinstance(node.meta.get("val"), Tensor) and getattr(packet, "__name__", "") not in _NO_KERNEL


def _computes_what_it_reads(reader: fx.Node) -> bool:
    target = reader.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.pointwise in target.tags or bool(target.is_view)
