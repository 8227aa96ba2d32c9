"""Contextual MLPs in plain torch: the reference semantics, used on devices without native kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda v: F.relu(v).square(),
}

RULES = ("threshold", "top_k", "statistical")


def _rows(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return a weight ``[n, H]`` in ``dtype``, its rows scaled where it is quantised."""
    return weight.to(dtype) if scale is None else (weight.float() * scale[:, None]).to(dtype)


def _biased(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias


def dense(
    x: Tensor,
    gate: Tensor | None,
    up: Tensor,
    down_t: Tensor,
    gate_scale: Tensor | None,
    up_scale: Tensor | None,
    down_scale: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    *,
    activation: str,
) -> Tensor:
    """Compute the MLP with every neuron, ``[…, H]``, in the dtype of x."""
    hidden = neurons(x, gate, up, gate_scale, up_scale, gate_bias, up_bias, activation=activation)
    return project(hidden, down_t, down_scale, down_bias)


def neurons(
    x: Tensor,
    gate: Tensor | None,
    up: Tensor,
    gate_scale: Tensor | None,
    up_scale: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    *,
    activation: str,
) -> Tensor:
    """Compute every neuron's value ``[…, I]``, in the dtype of x."""
    hidden = F.linear(x, _rows(up, up_scale, x.dtype), up_bias)
    if gate is None:
        return ACTIVATIONS[activation](hidden)
    return hidden * ACTIVATIONS[activation](F.linear(x, _rows(gate, gate_scale, x.dtype), gate_bias))


def project(hidden: Tensor, down_t: Tensor, down_scale: Tensor | None, down_bias: Tensor | None) -> Tensor:
    """Multiply the neurons' values ``[…, I]`` by down: ``[…, H]``, in their dtype."""
    return _biased(hidden @ _rows(down_t, down_scale, hidden.dtype), down_bias)


def contextual_mlp(
    x: Tensor,
    gate: Tensor | None,
    up: Tensor,
    down_t: Tensor,
    gate_scale: Tensor | None,
    up_scale: Tensor | None,
    down_scale: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    neurons: Tensor,
    count: Tensor,
    activation: str,
) -> Tensor:
    """Implement ``sparseflow::contextual_mlp`` by gathering the rows in float32; it waits for the device."""
    wide = x.float().reshape(-1, x.shape[-1])

    def over(rows: Tensor, listed: Tensor, length: Tensor) -> Tensor:
        at = listed[: int(length.clamp(0, len(listed)))].long()
        scales = (None if scale is None else scale[at] for scale in (gate_scale, up_scale, down_scale))
        biases = (None if bias is None else bias[at].float() for bias in (gate_bias, up_bias))
        last = None if down_bias is None else down_bias.float()
        rest = (*scales, *biases, last)
        return dense(
            rows, None if gate is None else gate[at], up[at], down_t[at], *rest, activation=activation
        )

    if neurons.dim() == 1:
        y = over(wide, neurons, count)
    else:
        parts = [over(wide[m : m + 1], neurons[m], count[m]) for m in range(len(wide))]
        y = torch.cat(parts) if parts else wide
    return y.to(x.dtype).reshape(x.shape)


def contextual_scores(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
) -> Tensor:
    """Implement ``sparseflow::contextual_scores``."""
    wide = x.float().reshape(-1, x.shape[-1])
    low = wide @ _rows(a, a_scale, torch.float32).T
    return _biased(low @ _rows(b, b_scale, torch.float32).T, bias)


def contextual_select(
    scores: Tensor, rule: str, parameter: float, per_row: bool = False
) -> tuple[Tensor, Tensor]:
    """Implement ``sparseflow::contextual_select``; it doesn't wait for the device."""
    chosen = _chosen(scores, rule, parameter)
    if not per_row:
        chosen = chosen.any(0, keepdim=True)
    # A stable sort puts the selected first, in their order.
    neurons = (~chosen).to(torch.uint8).sort(dim=1, stable=True).indices.int()
    count = chosen.sum(1, dtype=torch.int32)
    return (neurons if per_row else neurons[0]), count


def _chosen(scores: Tensor, rule: str, parameter: float) -> Tensor:
    if rule == "top_k":
        k = min(int(parameter), scores.shape[1])
        ranked = torch.where(scores.isnan(), float("inf"), scores).sort(dim=1, descending=True, stable=True)
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ranked.indices[:, :k], True)
        return best | scores.isnan()
    limit: Tensor | float = parameter
    if rule == "statistical":
        wide = scores.double()
        limit = (wide.mean(1) + parameter * wide.std(1, correction=0))[:, None].float()
    return ~(scores <= limit)  # so that a NaN is selected
