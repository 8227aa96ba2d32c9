"""A model whose linear layers leave out inputs near zero, in plain torch, and what that saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime.contextual.column import SINKS, is_small

Full = Callable[[Tensor], Tensor]
"""Of an input ``[rows, S, K]``, which tokens are read in full: bool, broadcast to ``[rows, S, 1]``."""


def sinks(x: Tensor) -> Tensor:
    """Read the first tokens of a sequence in full."""
    return (torch.arange(x.shape[-2], device=x.device) < SINKS)[:, None]


def prompts(x: Tensor) -> Tensor:
    """Read sequences in full, and single tokens not."""
    return torch.full((1, 1), x.shape[-2] > 1, device=x.device)


@dataclass
class Saved:
    """What was left out.

    Attributes:
        weights: values of all linear layers that can leave inputs out.
        left: of each layer, inputs that were left out and those that could have been.
        sizes: values of each layer's weight.
    """

    weights: int
    left: dict[str, list[Tensor]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def see(self, layer: Layer, small: Tensor, full: Tensor) -> None:
        """Count one call of a layer."""
        rows = small.numel() // small.shape[-1]
        could = (~full).sum() * (rows // full.numel()) * small.shape[-1]
        if layer.name not in self.left:
            zero = torch.zeros((), dtype=torch.int64, device=small.device)
            self.left[layer.name] = [zero, zero.clone()]
            self.sizes[layer.name] = layer.shape[0] * layer.shape[1]
        seen = self.left[layer.name]
        seen[0] += small.sum()
        seen[1] += could

    @property
    def share(self) -> float:
        """The share of all weights that was left out for a token."""
        shares = {name: float(left) / max(float(could), 1.0) for name, (left, could) in self.left.items()}
        return sum(self.sizes[name] * share for name, share in shares.items()) / self.weights


@contextmanager
def leaving_out(model: nn.Module, limits: Mapping[str, float], full: Full, weights: int) -> Iterator[Saved]:
    """Let each layer leave out the inputs below its limit, by name, and count them.

    Args:
        model: the model.
        limits: of its layers.
        full: which tokens are read in full.
        weights: values of all linear layers that can leave inputs out.
    """
    saved = Saved(weights)
    layers = {layer.name: layer for layer in find_layers(model, ())}
    with ExitStack() as stack:
        for name, limit in limits.items():

            def hook(
                module: nn.Module,
                args: tuple[Tensor, ...],
                layer: Layer = layers[name],
                limit: float = limit,
            ) -> tuple[Tensor, ...]:
                x, reads = args[0], full(args[0])
                small = is_small(x, limit) & ~reads
                saved.see(layer, small, reads)
                return x.masked_fill(small, 0), *args[1:]

            stack.callback(layers[name].module.register_forward_pre_hook(hook).remove)
        yield saved
