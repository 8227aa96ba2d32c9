"""A lowered program behind the calling convention of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from sparseflow.runtime.calling.ambient import autocast_is_on, autocast_off
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.signature import ResultKind, Signature
from sparseflow.runtime.calling.structure import Decoder, Flat
from sparseflow.runtime.calling.write_guard import WriteGuard


class Executable(nn.Module):
    """Run a graph for calls like the model's: same arguments, output types and in-place changes.

    Args:
        graph: takes the call's tensors and returns all results of `@main` as a tuple.
        signature: how they map to the call.
        call_signature: how the model's arguments are named.
        buffers: the tensors to update with the buffers' new values, by name.
        guard: refuses calls in which a written tensor shares memory with another.
    """

    def __init__(
        self,
        graph: Callable[..., Sequence[object]],
        signature: Signature,
        call_signature: CallSignature,
        buffers: dict[str, torch.Tensor] | None = None,
        guard: WriteGuard | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.signature = signature
        self.call_signature = call_signature
        self._targets = dict(buffers or {})
        self._guard = guard
        self.eval()

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the program for a call that it accepts; see `CapturedProgram.accepts`."""
        return self.run_flat(self.call_signature.flatten(args, kwargs))

    @torch.no_grad()
    def run_flat(self, call: Flat) -> object:
        """Run the program for a flattened call.

        Raises:
            ArgumentError: the graph writes a tensor that shares memory with another.
        """
        if self._guard is not None:
            self._guard.require_apart(call.leaves)
        if autocast_is_on():
            with autocast_off():
                results = self.graph(*call.leaves)
        else:
            results = self.graph(*call.leaves)
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
