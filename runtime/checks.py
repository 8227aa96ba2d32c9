"""Argument checks of weights, shared by pruning and packing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError, WeightError

NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes of the native operators."""

Scan = Callable[[Tensor], tuple[int, int] | None]
"""Finds the first entry, or group of four, that breaks a rule: its row and column, or group; else None."""

CHUNK_ELEMENTS = 1 << 22
"""Weights are checked in chunks of rows of about this many elements, to bound the temporaries."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without the prefix ``torch.``, such as ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def require_matrix(weight: object, name: str) -> Tensor:
    """Return ``weight`` detached, if it is a strided 2-d tensor.

    Raises:
        ArgumentError: not a tensor, not 2-d, or not strided.
    """
    if not isinstance(weight, Tensor):
        raise ArgumentError(name, f"expected a 2-d torch.Tensor, got {type(weight).__name__}")
    if weight.layout != torch.strided:
        raise ArgumentError(
            name, f"expected a strided tensor, got layout {weight.layout}", "call .to_dense()"
        )
    if weight.dim() != 2:
        raise ArgumentError(
            name,
            f"expected a 2-d weight [N, K], got {weight.dim()}-d with shape {list(weight.shape)}",
            "reshape it to [out_features, in_features]",
        )
    return weight.detach()


def require_dtype(weight: Tensor, allowed: Iterable[torch.dtype], name: str) -> None:
    """Refuse a weight of another dtype.

    Raises:
        ArgumentError: the dtype is not in ``allowed``.
    """
    if weight.dtype not in allowed:
        known = ", ".join(map(dtype_name, allowed))
        raise ArgumentError(
            name, f"expected a dtype of {known}, got {weight.dtype}", f"cast it first, e.g. {name}.float()"
        )


def require_data(weight: Tensor, name: str) -> None:
    """Refuse a meta tensor where values are needed.

    Raises:
        ArgumentError: the tensor is on the meta device.
    """
    if weight.is_meta:
        raise ArgumentError(
            name, "expected a tensor with data, got one on the meta device", "materialize it first"
        )


def require_finite(weight: Tensor, name: str) -> None:
    """Refuse NaN and Inf; meta tensors pass.

    Raises:
        WeightError: names the first bad row and column.
    """
    bad = None if weight.is_meta else _first_nonfinite(weight)
    if bad is not None:
        raise WeightError(
            name,
            f"row {bad[0]}, column {bad[1]} is {weight[bad].item()}; a weight must be finite",
            "repair the checkpoint, or leave this layer dense",
        )


def _first_nonfinite(weight: Tensor) -> tuple[int, int] | None:
    scan = native_scan("first_not_finite", weight)
    if scan is not None:
        return scan(weight)
    for start, chunk in row_chunks(weight):
        wide = chunk.float() if chunk.itemsize == 1 else chunk  # torch has no amax for float8_e4m3fn
        # The largest magnitude is finite only if all are, so one reduction is enough for a finite chunk.
        if wide.numel() and not wide.abs().amax().isfinite():
            row, column = (~wide.isfinite()).nonzero()[0].tolist()
            return start + row, column
    return None


def native_scan(name: str, weight: Tensor) -> Scan | None:
    """Return the native operator ``name`` as a scan; None if it doesn't support ``weight``."""
    operator = getattr(torch.ops.sparseflow, name)
    if weight.device.type != "cpu" or weight.dtype not in NATIVE_DTYPES:
        return None

    def scan(weight: Tensor) -> tuple[int, int] | None:
        row, place = operator(weight)
        return None if row < 0 else (row, place)

    return scan


def row_chunks(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(first row, rows)`` over a 2-d tensor in pieces of at most about ``CHUNK_ELEMENTS``."""
    rows = max(1, CHUNK_ELEMENTS // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], rows):
        yield start, weight[start : start + rows]
