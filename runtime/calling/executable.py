"""A lowered program behind the calling convention of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sparseflow.runtime.calling.ambient import autocast_is_on, autocast_off
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.signature import ResultKind, Signature
from sparseflow.runtime.calling.structure import Decoder, Flat
from sparseflow.runtime.calling.write_guard import WriteGuard

Replay = Callable[[Sequence[object]], Sequence[object] | None]
"""Returns the results for leaves like those it was made for; None if it can't any more."""


@runtime_checkable
class Replays(Protocol):
    """A graph that records what it runs."""

    @property
    def recordings(self) -> int:
        """How many it made so far."""

    def replay_of(self, leaves: Sequence[object]) -> Replay | None:
        """Return what replays a call over leaves like these, the written ones at the same place."""


class Executable(nn.Module):
    """Run a graph for calls like the model's: same arguments, output types and in-place changes.

    Args:
        graph: takes the call's tensors and returns all results of `@main` as a tuple.
        signature: how they map to the call.
        call_signature: how the model's arguments are named.
        buffers: the tensors to update with the buffers' new values, by name.
        guard: refuses calls in which a written tensor shares memory with another.
        direct: whether to pass the autograd layer by, which saves half of an operator's overhead.
    """

    def __init__(
        self,
        graph: Callable[..., Sequence[object]],
        signature: Signature,
        call_signature: CallSignature,
        buffers: dict[str, torch.Tensor] | None = None,
        guard: WriteGuard | None = None,
        *,
        direct: bool = False,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.signature = signature
        self.call_signature = call_signature
        self._targets = dict(buffers or {})
        self._guard, self._direct = guard, direct
        self._recorder = graph if isinstance(graph, Replays) else None
        self.eval()

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the program for a call that it accepts; see `CapturedProgram.accepts`."""
        return self.run_flat(self.call_signature.flatten(args, kwargs))

    def run_flat(self, call: Flat) -> object:
        """Run the program for a flattened call.

        Raises:
            ArgumentError: the graph writes a tensor that shares memory with another.
        """
        return self.output(self.results(call), call)

    def results(self, call: Flat) -> Sequence[object]:
        """Run the graph for a flattened call, and return what it does.

        Raises:
            ArgumentError: the graph writes a tensor that shares memory with another.
        """
        if self._guard is not None:
            self._guard.require_apart(call.leaves)
        return self.unguarded(call.leaves)

    @torch.no_grad()
    def unguarded(self, leaves: Sequence[object]) -> Sequence[object]:
        """Run the graph for leaves that are known to be apart from what it writes."""
        if autocast_is_on():
            with autocast_off():
                return self._run(leaves)
        return self._run(leaves)

    def _run(self, leaves: Sequence[object]) -> Sequence[object]:
        if not self._direct:
            return self.graph(*leaves)
        with torch._C._AutoDispatchBelowAutograd():
            return self.graph(*leaves)

    @property
    def recordings(self) -> int:
        """How many calls of the graph were recorded so far."""
        return 0 if self._recorder is None else self._recorder.recordings

    def replay(self, leaves: Sequence[object]) -> Replay | None:
        """Return what replays a call that was run, if it was recorded."""
        return None if self._recorder is None else self._recorder.replay_of(leaves)

    @property
    def only_returns(self) -> bool:
        """Whether all results are of the output, and no object of the call gets a new state."""
        signature = self.signature
        return not signature.outputs.updates and all(r.kind is ResultKind.OUTPUT for r in signature.results)

    @property
    def written_leaves(self) -> frozenset[int]:
        """The leaves that the graph writes."""
        return frozenset() if self._guard is None else self._guard.written

    def written(self, leaves: Sequence[object]) -> Iterable[torch.Tensor]:
        """Return all tensors that the graph writes, those of the model included."""
        if self._guard is None:
            return []
        found = [leaves[i] for i in self._guard.written]
        return [*(leaf for leaf in found if isinstance(leaf, torch.Tensor)), *self._guard.written_held]

    @torch.no_grad()
    def output(self, results: Sequence[object], call: Flat) -> object:
        """Return the model's output for the results of the graph, and update what the call passed."""
        outputs = self._write_back(results, call.leaves)
        decoder = Decoder(outputs, call.objects, call.leaves)
        output = decoder.unflatten(self.signature.outputs.structure)
        for update in self.signature.outputs.updates:
            decoder.update(call.objects[update.ordinal], update.state)
        return output

    def _write_back(self, results: Sequence[object], leaves: Sequence[object]) -> Iterator[object]:
        """Write the new values of buffers and inputs, and return the rest."""
        outputs = []
        for result, value in zip(self.signature.results, results, strict=True):
            if result.kind is ResultKind.BUFFER:
                _overwrite(self._targets[str(result.target)], value)
            elif result.kind is ResultKind.INPUT:
                _overwrite(leaves[int(result.target or 0)], value)
            else:
                outputs.append(value)
        return iter(outputs)


def _overwrite(target: object, value: object) -> None:
    assert isinstance(target, torch.Tensor)
    assert isinstance(value, torch.Tensor)
    target.copy_(value)
