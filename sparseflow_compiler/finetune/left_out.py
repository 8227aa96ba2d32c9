"""Inputs near zero that linear layers leave out, in the forward pass of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.contextual.column import SINKS, is_small

if TYPE_CHECKING:
    from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds

PACE = 0.5
"""By how much a threshold grows, in its logarithm, for each share that it leaves out too little."""


class LeftOut:
    """The layers of a model that leave out inputs below a threshold, each a share of them that stays.

    Training makes inputs larger, so that fixed thresholds would leave out fewer of them, and the loss would
    fall by that alone. So each threshold follows the quantile of the layer's inputs, by stochastic
    approximation (Robbins and Monro, 1951), one step for each update of the weights.

    Args:
        model: the model.
        activations: its thresholds; None or empty: nothing is left out.

    Attributes:
        thresholds: by layer, as given.
        limits: the thresholds by now, float32 `[layers]`.

    Raises:
        ArgumentError: a threshold is of a layer that the model lacks, or of another shape.
    """

    def __init__(self, model: nn.Module, activations: ActivationThresholds | None) -> None:
        found = {layer.name: layer for layer in find_layers(model, ())} if activations else {}
        self.thresholds: dict[str, float] = {}
        self._layers: list[Layer] = []
        for name, chosen in (activations or {}).items():
            if name not in found or found[name].shape != chosen.shape:
                raise ArgumentError(
                    f"sf.recover(activations), layer {name}",
                    f"is no linear layer (N, K) = {chosen.shape} of this {type(model).__name__}",
                    "pass what sf.calibrate_activations returned for the dense model",
                )
            self.thresholds[name] = chosen.threshold
            self._layers.append(found[name])
        rates = [chosen.rate for chosen in (activations or {}).values()]
        self._rates = torch.tensor(rates, device=device_of(model))
        self.limits = torch.tensor(list(self.thresholds.values()), device=device_of(model))
        self._shares, self._calls = torch.zeros_like(self.limits), torch.zeros_like(self.limits)

    def __len__(self) -> int:
        """Return how many layers leave inputs out."""
        return len(self._layers)

    def follow(self) -> None:
        """Move each threshold towards the one that leaves out its share, by what was seen since last time."""
        if self._layers:
            missing = torch.where(self._calls > 0, self._rates - self._shares / self._calls, 0)
            self.limits *= (PACE * missing).exp()
            self._shares.zero_()
            self._calls.zero_()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, let the layers leave out inputs; gradients pass as if all were read.

        Without these straight-through gradients (Bengio et al., 2013, arXiv 1308.3432) an input that is left
        out would never learn that it is needed.
        """
        with ExitStack() as stack:
            for index, layer in enumerate(self._layers):

                def hook(
                    module: nn.Module, args: tuple[Tensor, ...], index: int = index
                ) -> tuple[Tensor, ...]:
                    small = self._small(index, args[0].detach())
                    return cast(Tensor, _StraightThrough.apply(args[0], small)), *args[1:]  # type: ignore[no-untyped-call]

                stack.callback(layer.module.register_forward_pre_hook(hook).remove)
            yield

    def _small(self, index: int, x: Tensor) -> Tensor:
        """Return which inputs a layer leaves out, and count them while training."""
        small = is_small(x, self.limits[index])
        if torch.is_grad_enabled() and x.shape[-2] > SINKS:
            self._shares[index] += small[..., SINKS:, :].float().mean()
            self._calls[index] += 1
        small[..., :SINKS, :] = False
        return small


class _StraightThrough(torch.autograd.Function):
    """x with 0 for what is small, whose gradient is that of the identity."""

    @staticmethod
    def forward(x: Tensor, small: Tensor) -> Tensor:
        return x.masked_fill(small, 0)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
