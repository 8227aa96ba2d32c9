"""``sparse_mm``: the product with a packed 2:4 weight, every argument checked."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import ops
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.epilogues import ACTIVATIONS
from sparseflow.runtime.packed import PackedWeight
from sparseflow.runtime.products import which


def sparse_mm(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    residual: Tensor | None = None,
    policy: Policy | None = None,
) -> Tensor:
    """Return ``act(x · Wᵀ + bias) + residual`` with a packed weight W, for inference.

    Sums are accumulated in fp32. Under ``torch.autocast`` all floating tensors, including the packed values,
    are cast to the autocast dtype, as for ``F.linear``; a weight that is packed in that dtype saves the cast
    in each call.

    Args:
        x: ``[…, K]``, at least 1-d, of the packed weight's dtype and device; may be empty.
        packed: W, ``[N, K]``.
        bias: ``[N]``, same dtype and device.
        activation: ``"relu"``, ``"gelu"`` (exact), ``"gelu_tanh"``, ``"silu"``, or None.
        residual: ``[…, N]``, the result's shape; added after the activation.
        policy: which kernel runs for which M. With None the sparse kernel always runs, on CUDA with the best
            algorithm in the tuned tables. Float32 weights are decompressed in each call on CUDA, because
            sparse tensor cores don't multiply float32.

    Returns:
        ``[…, N]`` in x's dtype, contiguous.

    Raises:
        ArgumentError: an argument has a wrong type, dtype, shape, device or value.
        InferenceOnlyError: an argument requires grad while gradients are recorded.
    """
    _require_types(x, packed, activation)
    _require_fit(x, packed)
    if bias is not None:
        _require_like("bias", bias, (packed.out_features,), packed)
    if residual is not None:
        _require_like("residual", residual, (*x.shape[:-1], packed.out_features), packed)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, bias, residual)):
        raise ops.refuse_gradients("sparse_mm")
    result: Tensor = packed.format.op(
        x,
        *packed.tensors,
        bias,
        residual,
        packed.in_features,
        activation or "none",
        _sparse_codes(packed) if policy is None else policy.to_ints(),
        packed.dense,
    )
    return result


def _sparse_codes(packed: PackedWeight) -> list[int]:
    if packed.device.type != "cuda":
        return []
    shape = packed.out_features, packed.in_features
    return list(_cuda_codes(*shape, packed.multiplied, packed.device, packed.format.name))


@functools.cache
def _cuda_codes(n: int, k: int, dtype: torch.dtype, device: torch.device, format: str) -> tuple[int, ...]:
    found = which.policies([(n, k)], dtype, device, mode="sparse", format=format, tune="off")[n, k]
    return tuple(which.runnable(found).to_ints())


def _require_types(x: object, packed: object, activation: object) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentError("sparse_mm: x", f"expected a torch.Tensor, got {type(x).__name__}")
    if not isinstance(packed, PackedWeight):
        raise ArgumentError(
            "sparse_mm: packed",
            f"expected a PackedWeight, got {type(packed).__name__}",
            "pack the weight first: sparseflow.compress_2_4(w)",
        )
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(repr(name) for name in ACTIVATIONS)
        raise ArgumentError("sparse_mm: activation", f"expected None or one of {known}, got {activation!r}")


def _require_fit(x: Tensor, packed: PackedWeight) -> None:
    if x.dim() == 0:
        raise ArgumentError("sparse_mm: x", f"expected shape […, {packed.in_features}], got a 0-d tensor")
    if x.shape[-1] != packed.in_features:
        raise ArgumentError(
            "sparse_mm: x",
            f"expected {packed.in_features} features in the last dimension, got shape {list(x.shape)}",
        )
    _require_dtype("x", x, packed)
    _require_device("x", x, packed)
    if x.device.type not in ("cpu", "meta"):
        _require_kernel(packed, x.device)


def _require_like(name: str, tensor: Tensor, shape: tuple[int, ...], packed: PackedWeight) -> None:
    if not isinstance(tensor, Tensor):
        raise ArgumentError(
            f"sparse_mm: {name}", f"expected a torch.Tensor or None, got {type(tensor).__name__}"
        )
    if tuple(tensor.shape) != shape:
        raise ArgumentError(f"sparse_mm: {name}", f"expected shape {list(shape)}, got {list(tensor.shape)}")
    _require_dtype(name, tensor, packed)
    _require_device(name, tensor, packed)


def _require_dtype(name: str, tensor: Tensor, packed: PackedWeight) -> None:
    if tensor.dtype == packed.dtype:
        return
    # Under autocast the operator casts both sides to one dtype, except fp64 and integers.
    castable = tensor.is_floating_point() and tensor.dtype != torch.float64
    if castable and torch.is_autocast_enabled(tensor.device.type):
        return
    raise ArgumentError(
        f"sparse_mm: {name}",
        f"expected dtype {packed.dtype} as the packed weight has, got {tensor.dtype}",
        f"cast it: {name}.to({packed.dtype})",
    )


def _require_device(name: str, tensor: Tensor, packed: PackedWeight) -> None:
    if tensor.device != packed.device:
        raise ArgumentError(
            f"sparse_mm: {name}",
            f"expected device {packed.device} as the packed weight has, got {tensor.device}",
            "move one of them with .to(device)",
        )


def _require_kernel(packed: PackedWeight, device: torch.device) -> None:
    operator = f"sparseflow::{packed.format.operator}"
    keys = (device.type.upper(), "CompositeImplicitAutograd")
    if not any(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key) for key in keys):
        raise ArgumentError(
            "sparse_mm: x",
            f"this build has no {packed.format.name} kernel for device {device}",
            "run it on the CPU",
        )
