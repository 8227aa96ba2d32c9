"""Linear layers over a dense weight in 8 bits with a scale for each row; x keeps its dtype.

    y = act((x · valuesᵀ) · scales + bias) (+ residual)

``sparseflow::linear_weight_only`` is made of torch's operators. Where torch.compile traces it for few rows
on a GPU, each row of x is a sum over the rows of the weight: inductor makes one reduction of them that reads
the 8-bit weight once.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sparseflow.runtime import epilogues, ops

FEW_ROWS = 8
"""Rows of x up to which the weight is read in 8 bits; for more it is converted to the dtype of x first."""

CHUNK = 1 << 26
"""Elements of the weight that are converted at a time."""

_SCHEMA = (
    "linear_weight_only(Tensor x, Tensor values, Tensor scales, Tensor? bias, Tensor? residual, "
    "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor"
)


def _linear(
    x: Tensor,
    values: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    """Run the layer; there is one way to run it, so that the policy says nothing, nor does a dense weight."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(x, bias, residual):
        raise ops.refuse_gradients("torch.ops.sparseflow.linear_weight_only")
    ops.check(
        x.dim() >= 1 and x.shape[-1] == in_features == values.shape[-1],
        lambda: f"sparseflow::linear_weight_only: x must be [..., {values.shape[-1]}], got {list(x.shape)}",
    )
    rows = x.reshape(-1, in_features)
    y = _product(rows, values, scales).reshape(*x.shape[:-1], values.shape[0])
    return epilogues.finish(y, bias, epilogue, residual).to(x.dtype)


def _product(rows: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Return ``rows · valuesᵀ · scales`` in float32 or the dtype of the rows."""
    few = 0 < rows.shape[0] <= FEW_ROWS
    if few and rows.device.type != "cpu" and type(rows) is not Tensor:  # torch.compile traces a subclass
        wide = values.float()
        return torch.stack([(wide * row).sum(-1) for row in rows.float().unbind(0)]) * scales
    if few and _packable(rows, values):
        # Scaled afterwards: torch's kernel takes scales in bfloat16 only.
        return torch._weight_int8pack_mm(rows, values, torch.ones_like(scales, dtype=rows.dtype)) * scales
    step = max(1, CHUNK // max(1, values.shape[1]))
    parts = zip(torch.split(values, step), torch.split(scales, step), strict=True)
    found = [rows @ (part.float() * scale[:, None]).to(rows.dtype).T for part, scale in parts]
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def _packable(rows: Tensor, values: Tensor) -> bool:
    """Return whether torch's CPU kernel for int8 weights can run; it needs multiples of 32."""
    sizes = values.shape[0] % 32 == 0 == values.shape[1] % 32
    types = rows.dtype == torch.bfloat16 and values.dtype == torch.int8
    return sizes and types and rows.device.type == "cpu" and rows.is_contiguous()


def _autocast(device_type: str, keyset: object, x: Tensor, values: Tensor, *args: object) -> Tensor:
    """Cast x, bias and residual to the autocast dtype, as for ``F.linear``; the weight stays as it is."""
    key = getattr(torch._C.DispatchKey, f"Autocast{device_type.upper()}")
    dtype = torch.get_autocast_dtype(device_type)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        cast = functools.partial(ops.autocast, device_type=device_type, dtype=dtype)
        scales, bias, residual, *rest = args
        result: Tensor = torch.ops.sparseflow.linear_weight_only.default(
            cast(x), values, scales, cast(bias), cast(residual), *rest
        )
    return result


def _register() -> None:
    _LIBRARY.define(_SCHEMA)
    _LIBRARY.impl("linear_weight_only", _linear, "CompositeImplicitAutograd")
    for device_type in ("cpu", "cuda"):
        cast = functools.partial(_autocast, device_type)
        _LIBRARY.impl("linear_weight_only", cast, f"Autocast{device_type.upper()}", with_keyset=True)


_LIBRARY = ops.operator_library("sparseflow", "FRAGMENT")
_register()
