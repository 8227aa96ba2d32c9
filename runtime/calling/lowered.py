"""A call together with the lowered graph that serves it, to be run as a part of another graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from sparseflow.runtime.calling.signature import Signature
from sparseflow.runtime.calling.structure import Decoder, Flat


@dataclass(frozen=True)
class LoweredCall:
    """A call and its graph.

    Attributes:
        graph: takes the leaves of the call, and writes in place what the model writes.
        signature: how its results form the model's output.
        call: the call, taken apart.
    """

    graph: fx.GraphModule
    signature: Signature
    call: Flat

    def output(self, results: list[Any], leaves: list[Any]) -> Any:
        """Return the model's output, made of what stands for results and leaves, such as nodes of a graph."""
        return Decoder(results, self.call.objects, leaves).unflatten(self.signature.outputs.structure)
