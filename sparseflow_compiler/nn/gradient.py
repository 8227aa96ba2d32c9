"""The product of a packed layer with gradients for x and the bias; the weight is frozen."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from sparseflow.runtime.formats import Format
from sparseflow.runtime.packed import PackedWeight

_Inputs: TypeAlias = tuple[Tensor, Tensor | None, Format, int, list[int], Tensor | None, *tuple[Tensor, ...]]


class _Context(Protocol):
    """The context that torch passes from forward to backward."""

    stored: Format
    in_features: int
    x_dtype: torch.dtype
    bias_dtype: torch.dtype | None
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors, which backward reads as `saved_tensors`."""


class _Linear(torch.autograd.Function):
    """Compute forward with the sparse kernels, and backward with the weight, unpacked temporarily."""

    @staticmethod
    def forward(
        x: Tensor,
        bias: Tensor | None,
        stored: Format,
        in_features: int,
        policy: list[int],
        dense: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        y: Tensor = stored.op(x, *tensors, bias, None, in_features, "none", policy, dense)
        return y

    @staticmethod
    def setup_context(ctx: _Context, inputs: _Inputs, output: Tensor) -> None:
        x, bias, ctx.stored, ctx.in_features, _, _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        # Under autocast the product has another dtype than x and the bias.
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        to_x, to_bias = None, None
        if ctx.needs_input_grad[0]:
            weight = ctx.stored.unpack(ctx.saved_tensors, ctx.in_features)
            to_x = (grad @ weight.to(grad.dtype)).to(ctx.x_dtype)
        if ctx.needs_input_grad[1]:
            to_bias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
        return to_x, to_bias, *[None] * (len(ctx.needs_input_grad) - 2)


def differentiable(x: Tensor, weight: PackedWeight, bias: Tensor | None, policy: list[int]) -> Tensor:
    """Return ``x · Wᵀ + bias``, ``[…, N]``, with gradients for x ``[…, K]`` and bias ``[N]``."""
    y: Tensor = _Linear.apply(
        x, bias, weight.format, weight.in_features, policy, weight.dense, *weight.tensors
    )  # type: ignore[no-untyped-call]
    return y
