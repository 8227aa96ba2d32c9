"""Guard against calls in which a tensor that a program writes is also another of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, fx

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.overlap import Span, Spans, overlaps_itself, share_memory


class WriteGuard:
    """Refuse calls in which a tensor that a program writes shares memory with another that it uses.

    The program was captured as if each input had memory of its own. One tensor passed twice is one input.

    Args:
        subject: how errors call the model.
        names: of the leaves.
        written: the leaves that the program writes.
        held: the model's tensors that the program uses.
        written_held: those among them that it writes.

    Attributes:
        written: the leaves that the program writes.
        written_held: the model's tensors that it writes.
    """

    def __init__(
        self,
        subject: str,
        names: Sequence[str],
        written: frozenset[int],
        held: Sequence[Tensor],
        written_held: frozenset[int],
    ) -> None:
        self._subject, self._names, self._held = subject, names, held
        self.written, self.written_held = written, [held[i] for i in sorted(written_held)]
        spans = [Span.of(tensor, i) for i, tensor in enumerate(held)]
        self._all_held = Spans(spans)
        self._written_held = Spans(span for span in spans if span.place in written_held)

    @classmethod
    def of(
        cls, subject: str, names: Sequence[str], graph: fx.GraphModule, written: frozenset[int]
    ) -> Self | None:
        """Return the guard of a lowered graph; None where it writes nothing.

        Args:
            subject: how errors call the model.
            names: of the leaves.
            graph: as it runs; the tensors of the model are its buffers.
            written: the leaves that it writes.
        """
        targets = _written_buffers(graph)
        if not written and not targets:
            return None
        held = dict(graph.named_buffers())
        places = frozenset(i for i, name in enumerate(held) if name in targets)
        return cls(subject, names, written, list(held.values()), places)

    def require_apart(self, leaves: Sequence[object]) -> None:
        """Check that the written tensors share memory with nothing else.

        Raises:
            ArgumentError: one does; the error names both.
        """
        tensors = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        spans = [Span.of(leaf, i) for i, leaf in tensors.items()]
        for one, other in Spans(spans).pairs():
            if not self.written.isdisjoint((one.place, other.place)):
                self._compare(one.place, tensors[one.place], tensors[other.place], self._names[other.place])
        for span in spans:
            leaf, writes = tensors[span.place], span.place in self.written
            if writes and not leaf.is_contiguous() and overlaps_itself(leaf):
                self._refuse(self._names[span.place], "itself")
            for other in (self._all_held if writes else self._written_held).meeting(span):
                self._compare(span.place, leaf, self._held[other.place], "a tensor of the model")

    def _compare(self, index: int, leaf: Tensor, other: Tensor, name: str) -> None:
        if share_memory(leaf, other):
            self._refuse(self._names[index], name)

    def _refuse(self, one: str, other: str) -> None:
        raise ArgumentError(
            self._subject,
            f"the memory of {one} overlaps {other}, and the model writes it in place; a captured program "
            "computes as if each tensor had its own",
            f"pass {one}.clone(), or one tensor for both where they are the same",
        )


def _written_buffers(graph: fx.GraphModule) -> set[str]:
    """Return the buffers that a graph writes."""
    found = set()
    for node in graph.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        target = node.args[0]
        if isinstance(target, fx.Node) and target.op == "get_attr":
            found.add(str(target.target))
    return found
