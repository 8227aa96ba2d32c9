"""Formats' helpers that import torch: element types, and checks of tensors of untrusted origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import checks

if TYPE_CHECKING:
    from sparseflow.runtime.formats.base import Part

TORCH_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f64": torch.float64,
    "f8E4M3FN": torch.float8_e4m3fn,
    "ui8": torch.uint8,
    "si8": torch.int8,
}
"""The torch dtype of each MLIR element type."""

ELEMENT_TYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""The MLIR element type of each torch dtype."""


def require_parts(tensors: Sequence[Tensor], parts: Sequence[Part], in_features: int, name: str) -> None:
    """Refuse tensors that can't be the parts of one weight.

    Args:
        tensors: in the order of the parts.
        parts: of a weight with as many rows as the first tensor.
        in_features: K.
        name: how errors call the weight.

    Raises:
        ArgumentError: names the tensor, its dtype or shape, or the devices.
    """
    if len(tensors) != len(parts):
        listed = ", ".join(part.name for part in parts)
        raise ArgumentError(name, f"expected {len(parts)} tensors ({listed}), got {len(tensors)}")
    for tensor, part in zip(tensors, parts, strict=True):
        if len(part.shape) == 2:
            checks.require_matrix(tensor, f"{name}.{part.name}")
        checks.require_dtype(tensor, (TORCH_DTYPES[part.dtype],), f"{name}.{part.name}")
    if any(tuple(t.shape) != part.shape for t, part in zip(tensors, parts, strict=True)):
        wanted = " and ".join(f"{part.name} {list(part.shape)}" for part in parts)
        found = " and ".join(str(list(tensor.shape)) for tensor in tensors)
        raise ArgumentError(name, f"in_features={in_features} needs {wanted}, got {found}")
    for tensor, part in zip(tensors, parts, strict=True):
        if tensor.device != tensors[0].device:
            raise ArgumentError(
                name, f"{parts[0].name} are on {tensors[0].device}, {part.name} on {tensor.device}"
            )


def empty_parts(parts: Sequence[Part], device: torch.device | str | None) -> tuple[Tensor, ...]:
    """Return uninitialised tensors for the parts."""
    return tuple(torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device=device) for part in parts)
