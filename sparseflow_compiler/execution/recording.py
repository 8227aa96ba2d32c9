"""A recorded CUDA graph and the results that callers hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LENT_FROM = 8 << 20
"""Bytes from which a result is lent; copying less takes about as long as launching the copy."""

MOST_LENT = 1 << 30
"""Bytes of results up to which a call is recorded to lend them: each recording keeps as many."""


class Recording:
    """A graph with its results, which the next replay overwrites.

    Callers get copies of small results; large ones are lent: the graph may not be replayed until all
    tensors that share their memory are gone.

    Args:
        graph: the CUDA graph.
        results: of the recorded program.
        inputs: of the recorded program; results that share memory with one are always copied.
        lends: whether large results are lent.
    """

    def __init__(
        self, graph: torch.cuda.CUDAGraph, results: Sequence[object], inputs: Sequence[object], *, lends: bool
    ) -> None:
        self._graph, self._results = graph, tuple(results)
        self._lent = [
            i
            for i, result in enumerate(self._results)
            if lends and is_large(result) and not shares_memory(result, inputs)
        ]
        self._unlent = self._holders()

    @property
    def free(self) -> bool:
        """Whether no caller holds a result any more."""
        return self._holders() == self._unlent

    def replay(self) -> tuple[object, ...]:
        """Run the graph and hand out its results."""
        self._graph.replay()
        return tuple(self._handed(i, result) for i, result in enumerate(self._results))

    def _handed(self, index: int, result: object) -> object:
        if not isinstance(result, Tensor):
            return result
        # A new tensor over the same memory, so that a caller can't change the original's shape.
        return result.detach() if index in self._lent else result.clone()

    def _holders(self) -> list[int]:
        lent = (self._results[i] for i in self._lent)
        return [_holders(result) for result in lent if isinstance(result, Tensor)]


def is_large(result: object) -> bool:
    """Return whether a result is large enough to lend."""
    return isinstance(result, Tensor) and result.nbytes >= LENT_FROM


def shares_memory(result: object, inputs: Sequence[object]) -> bool:
    """Return whether a result shares memory with an input."""
    return isinstance(result, Tensor) and any(
        isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
        for leaf in inputs
    )


def _holders(tensor: Tensor) -> int:
    """Count the tensors and storages that share a tensor's memory, itself included."""
    # Same as in torch's own CUDA graphs; it has no public name.
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))
