"""Inputs near zero that linear layers leave out, in the forward pass of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime.contextual.column import without_small

if TYPE_CHECKING:
    from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds


class LeftOut:
    """The layers of a model that leave out inputs below a threshold.

    Args:
        model: the model.
        activations: its thresholds; None or empty: nothing is left out.

    Attributes:
        thresholds: by layer.

    Raises:
        ArgumentError: a threshold is of a layer that the model lacks, or of another shape.
    """

    def __init__(self, model: nn.Module, activations: ActivationThresholds | None) -> None:
        found = {layer.name: layer for layer in find_layers(model, ())} if activations else {}
        self.thresholds: dict[str, float] = {}
        self._layers: dict[str, Layer] = {}
        for name, chosen in (activations or {}).items():
            if name not in found or found[name].shape != chosen.shape:
                raise ArgumentError(
                    f"sf.recover(activations), layer {name}",
                    f"is no linear layer (N, K) = {chosen.shape} of this {type(model).__name__}",
                    "pass what sf.calibrate_activations returned for the dense model",
                )
            self.thresholds[name], self._layers[name] = chosen.threshold, found[name]

    def __len__(self) -> int:
        """Return how many layers leave inputs out."""
        return len(self._layers)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, let the layers leave out inputs; gradients pass as if all were read.

        Without these straight-through gradients (Bengio et al., 2013, arXiv 1308.3432) an input that is left
        out would never learn that it is needed.
        """
        with ExitStack() as stack:
            for name, layer in self._layers.items():

                def hook(
                    module: nn.Module, args: tuple[Tensor, ...], threshold: float = self.thresholds[name]
                ) -> tuple[Tensor, ...]:
                    return cast(Tensor, _StraightThrough.apply(args[0], threshold)), *args[1:]  # type: ignore[no-untyped-call]

                stack.callback(layer.module.register_forward_pre_hook(hook).remove)
            yield


class _StraightThrough(torch.autograd.Function):
    """`without_small`, whose gradient is that of the identity."""

    @staticmethod
    def forward(x: Tensor, threshold: float) -> Tensor:
        return without_small(x, threshold)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
