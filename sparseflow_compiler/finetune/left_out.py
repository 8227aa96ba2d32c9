"""Inputs near zero that linear layers leave out, in the forward pass of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
        limits = torch.tensor(list(self.thresholds.values()), device=device_of(model))
        self._inputs = [_Input(limit.clone()) for limit in limits]

    def __len__(self) -> int:
        """Return how many layers leave inputs out."""
        return len(self._layers)

    @property
    def limits(self) -> Tensor:
        """The thresholds by now, float32 `[layers]`."""
        return torch.stack([each.limit for each in self._inputs]) if self._inputs else torch.zeros(0)

    @torch.no_grad()
    def go_on(self, limits: Tensor) -> None:
        """Take thresholds of an interrupted run, float32 `[layers]`."""
        for each, limit in zip(self._inputs, limits, strict=True):
            each.limit.copy_(limit)

    @torch.no_grad()
    def follow(self) -> None:
        """Move each threshold towards the one that leaves out its share, by what was seen since last time."""
        if not self._layers:
            return
        shares, calls = ([getattr(each, name) for each in self._inputs] for name in ("share", "calls"))
        seen, count = torch.stack(shares), torch.stack(calls)
        missing = torch.where(count > 0, self._rates - seen / count, 0)
        moved = self.limits * (PACE * missing).exp()
        torch._foreach_copy_([each.limit for each in self._inputs], list(moved.unbind()))
        torch._foreach_zero_([*shares, *calls])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, let the layers leave out inputs; gradients pass as if all were read.

        Without these straight-through gradients (Bengio et al., 2013, arXiv 1308.3432) an input that is left
        out would never learn that it is needed.
        """
        with ExitStack() as stack:
            for layer, each in zip(self._layers, self._inputs, strict=True):
                # torch.compile doesn't look which hook a layer has, only whether: one serves all, and what is
                # a layer's own it finds on the layer.
                setattr(layer.module, _OWN, each)
                stack.callback(delattr, layer.module, _OWN)
                stack.callback(layer.module.register_forward_pre_hook(_leave_out).remove)
            yield


@dataclass
class _Input:
    """The input of one layer, all float32 scalars at places that stay.

    Attributes:
        limit: what is smaller is left out.
        share: the sum of the shares left out in `calls` calls.
        calls: since the last step.
    """

    limit: Tensor
    share: Tensor = field(init=False)
    calls: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.share, self.calls = torch.zeros_like(self.limit), torch.zeros_like(self.limit)


_OWN = "_sparseflow_input"


def _leave_out(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Leave out what a layer's input has below its threshold, and count it while training."""
    own: _Input = getattr(module, _OWN)
    x = args[0]
    small = is_small(x.detach(), own.limit)
    if torch.is_grad_enabled() and x.shape[-2] > SINKS:
        own.share += small[..., SINKS:, :].float().mean()
        own.calls += 1
    small[..., :SINKS, :] = False
    return cast(Tensor, _StraightThrough.apply(x, small)), *args[1:]  # type: ignore[no-untyped-call]


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
