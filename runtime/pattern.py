"""The 2:4 pattern: at most two nonzeros in each group of four along a weight's last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import checks, ops, portable


def prune_24(w: Tensor, *, name: str = "weight") -> Tensor:
    """Return a weight with only the two largest magnitudes of each group of four; ties keep the earlier.

    Args:
        w: weight ``[N, K]`` in float32, bfloat16, float16 or float64, on any device; it isn't changed. If K
            is not divisible by 4, the last, shorter group keeps at most two entries as well.
        name: the weight's name in errors.

    Returns:
        A new contiguous tensor of the same shape, dtype and device.

    Raises:
        ArgumentError: not a 2-d strided tensor of a supported dtype.
        WeightError: the weight holds NaN or Inf; names the first bad row and column.
    """
    weight = checks.require_matrix(w, name)
    checks.require_dtype(weight, (*checks.NATIVE_DTYPES, torch.float64), name)
    checks.require_finite(weight, name)
    if weight.dtype == torch.float64:
        return portable.prune_2_4(weight.contiguous())
    pruned: Tensor = ops.prune_2_4(weight.contiguous())
    return pruned


def is_24(w: Tensor) -> bool:
    """Return whether each group of four of ``w`` ``[N, K]`` has at most two nonzeros; −0.0 counts as zero.

    Raises:
        ArgumentError: not a 2-d strided tensor with data.
    """
    return first_violation(w) is None


def first_violation(w: Tensor, *, name: str = "weight") -> tuple[int, int] | None:
    """Return (row, group) of the first group of four with more than two nonzeros, or None.

    Args:
        w: weight ``[N, K]`` of any dtype; group g covers the columns 4g … 4g+3. NaN counts as a nonzero.
        name: the weight's name in errors.

    Raises:
        ArgumentError: not a 2-d strided tensor with data.
    """
    weight = checks.require_matrix(w, name)
    checks.require_data(weight, name)
    scan = checks.native_scan("first_not_2_4", weight)
    if scan is not None:
        return scan(weight)
    for start, chunk in checks.row_chunks(weight):
        crowded = _nonzeros_by_group(chunk) > 2
        if crowded.any():
            row, group = crowded.nonzero()[0].tolist()
            return start + row, group
    return None


def _nonzeros_by_group(weight: Tensor) -> Tensor:
    """Return the number of nonzeros in each group of four, int32 ``[N, ceil(K/4)]``."""
    nonzero = (weight != 0).contiguous()
    if weight.shape[1] % 4:
        nonzero = F.pad(nonzero, (0, -weight.shape[1] % 4))
    # Four bools are one int32 with bytes of 0 or 1; multiplied by 0x01010101, its top byte is their sum. This
    # is much faster than a reduction over a dimension of size four.
    return nonzero.view(torch.int32) * 0x01010101 >> 24


def relative_difference(weight: Tensor, pruned: Tensor) -> float:
    """Return ‖W − W'‖ / ‖W‖ in the Frobenius norm; 0 for a zero weight and on the meta device."""
    if weight.is_meta or pruned is weight:
        return 0.0
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norm = torch.linalg.vector_norm(weight, dtype=dtype)
    lost = torch.linalg.vector_norm(weight - pruned, dtype=dtype)
    return float(lost / norm) if norm else 0.0
