"""Contextual MLPs for more than `m_max` rows: every neuron, dense or 2:4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseflow.runtime import ops
from sparseflow.runtime.contextual import portable
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.epilogues import ACTIVATIONS


def every_neuron(
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
    activation: str,
    up_values: Tensor | None = None,
    up_positions: Tensor | None = None,
    up_policy: Sequence[int] = (),
    down_values: Tensor | None = None,
    down_positions: Tensor | None = None,
    down_policy: Sequence[int] = (),
) -> Tensor:
    """Compute the MLP with every neuron, ``[…, H]``; products with a packed weight run by their policy.

    x is ``[…, H]``, H at least 1; the weights are as in `ContextualWeights`. Packed are ``[2·I, H]``, gate
    and up, or ``[I, H]`` without a gate, and down, ``[H, I]``. Policies are as `Policy.to_ints` gives them;
    an empty one is always 2:4.
    """
    rows = x.numel() // x.shape[-1]
    if up_values is None or _densely(up_policy, rows):
        hidden = portable.neurons(
            x, gate, up, gate_scale, up_scale, gate_bias, up_bias, activation=activation
        )
    else:
        bias = up_bias if gate is None else _joined(gate_bias, up_bias, up)
        hidden = _neurons(x, up_values, up_positions, bias, up_policy, activation, gated=gate is not None)
    if down_values is None or _densely(down_policy, rows):
        return portable.project(hidden, down_t, down_scale, down_bias)
    y: Tensor = ops.linear(
        hidden, down_values, down_positions, down_bias, None, up.shape[0], "none", down_policy
    )
    return y


def _densely(policy: Sequence[int], rows: int) -> bool:
    return Policy.from_ints(policy).choice(rows).is_dense


def _neurons(
    x: Tensor,
    values: Tensor,
    positions: Tensor | None,
    bias: Tensor | None,
    policy: Sequence[int],
    activation: str,
    *,
    gated: bool,
) -> Tensor:
    fused = activation in ACTIVATIONS
    epilogue = f"{activation}_gated" if fused and gated else activation if fused else "none"
    product: Tensor = ops.linear(x, values, positions, bias, None, x.shape[-1], epilogue, policy)
    if fused:
        return product
    active = portable.ACTIVATIONS[activation]
    if not gated:
        return active(product)
    driver, driven = product.chunk(2, dim=-1)
    return active(driver) * driven


def _joined(gate_bias: Tensor | None, up_bias: Tensor | None, up: Tensor) -> Tensor | None:
    if gate_bias is None and up_bias is None:
        return None
    none = up.new_zeros(up.shape[0])
    return torch.cat([none if gate_bias is None else gate_bias, none if up_bias is None else up_bias])
