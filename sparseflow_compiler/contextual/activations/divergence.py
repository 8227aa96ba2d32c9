"""How much leaving out a layer's small inputs changes what a language model predicts, from one backward pass.

Leaving out inputs changes a layer's input by δ, and the loss of a text by gᵀδ to first order, g being the
loss's gradient. For a text whose next tokens are drawn from the model's own predictions, ½ E[(gᵀδ)²] is the
KL divergence of the predictions to second order (the Fisher information). For every token and layer one pass
gives that of every threshold: −Σ g_k x_k over the inputs below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.contextual.activations.inputs import SharedInput, changing
from sparseflow.pruning.linear_layers import Layer
from sparseflow.runtime.contextual.column import SINKS


def costs(
    model: nn.Module,
    inputs: Sequence[SharedInput],
    thresholds: Tensor,
    windows: Sequence[Tensor],
    logits: Callable[[Tensor], Tensor],
    step: Callable[[int], None],
) -> Tensor:
    """Estimate what leaving inputs out costs, layer by layer and for each threshold.

    Args:
        model: whose parameters get no gradients.
        inputs: of its layers.
        thresholds: ``[inputs, rates]`` float32, ascending.
        windows: token ids ``[1, S]`` each.
        logits: of a window: ``[1, S, V]``.
        step: called after each window, to advance a progress bar.

    Returns:
        KL divergence, nats a token: ``[inputs, rates]`` float64, on the CPU.
    """
    total = torch.zeros(thresholds.shape, dtype=torch.float64)
    seen = 0
    with _Frozen(model), torch.enable_grad():
        for done, window in enumerate(windows, start=1):
            changes = _changes(inputs, thresholds, window, logits)
            total += 0.5 * changes.double().square().sum(1).cpu()
            seen += window.shape[-1] - SINKS
            step(done)
    return total / max(seen, 1)


class _Frozen:
    """Parameters that require no gradients for a while."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def _changes(
    inputs: Sequence[SharedInput], thresholds: Tensor, window: Tensor, logits: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return how each token's inputs below each threshold change the loss: ``[inputs, tokens, rates]``."""
    rates, tokens = thresholds.shape[1], window.shape[-1]
    sums = torch.zeros(len(inputs), tokens, rates + 1, device=window.device)
    limits = thresholds.to(window.device)
    places = {shared.name: place for place, shared in enumerate(inputs)}

    def follow(shared: SharedInput, layer: Layer, x: Tensor) -> Tensor:
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        # A hook that held `read` would hold the graph that holds the hook, which Python can't see into.
        read, values_read, place = x.view_as(x), x.detach(), places[shared.name]

        def add(gradient: Tensor) -> None:
            values = values_read.float().reshape(tokens, -1)
            first = torch.bucketize(values.abs(), limits[place], right=True)
            sums[place].scatter_add_(1, first, gradient.float().reshape(tokens, -1) * values)

        read.register_hook(add)  # type: ignore[no-untyped-call]  # torch's annotations are incomplete
        return read

    with changing(inputs, follow):
        predicted = logits(window)[0].float()
        drawn = _drawn(predicted.detach())
        F.cross_entropy(predicted, drawn, reduction="sum").backward()  # type: ignore[no-untyped-call]
    return sums[:, SINKS:].cumsum(-1)[..., :rates]


def _drawn(logits: Tensor) -> Tensor:
    """Draw a token ``[S]`` from each distribution ``[S, V]``, by one random number each (multinomial: V)."""
    below = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    share = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device)
    # A number that rounds up to the sum would be past the last token of any probability.
    return (
        torch.searchsorted(below, share * below[:, -1:], right=True).flatten().clamp(max=logits.shape[1] - 1)
    )
