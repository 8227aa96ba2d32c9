"""Convert packed weights to and from compressed-tensors' ``sparse-24-bitmask``.

A byte of the mask covers the same eight columns as a byte of ``PackedWeight.positions``, so a table of 256
entries converts one to the other without unpacking the weight.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import PackedWeight, checks
from sparseflow.runtime.packed import require_24


def to_bitmask(packed: PackedWeight, *, name: str = "weight") -> tuple[Tensor, Tensor]:
    """Return the kept values and the mask of a packed weight ``[N, K]``.

    Args:
        packed: K divisible by 4.
        name: how errors call the weight.

    Returns:
        Values ``[N, K/2]`` of the weight's dtype; the mask ``[N, ceil(K/8)]`` uint8, bit ``j % 8`` of byte
        ``j / 8`` set where column j is kept, two in each group of four. Both on the weight's device.

    Raises:
        ArgumentError: K is not divisible by 4, or the weight is of another format than 2:4.
    """
    require_24(packed, f"to_bitmask({name})")
    _require_fours(packed.in_features, name)
    values, positions = packed.portable()
    mask = _translated(positions, _masks())
    if packed.in_features % 8:
        mask[:, -1] &= 15
    return values, mask


def from_bitmask(values: Tensor, mask: Tensor, in_features: int, *, name: str = "weight") -> PackedWeight:
    """Return the packed weight of values and a mask; kept zeros stay kept.

    Args:
        values: ``[N, K/2]``, float32, bfloat16 or float16.
        mask: ``[N, ceil(K/8)]`` uint8, on the same device.
        in_features: K, divisible by 4.
        name: how errors call the weight.

    Raises:
        ArgumentError: K is not divisible by 4, or a shape or dtype doesn't fit.
        WeightError: a group doesn't keep exactly two, or a value is NaN or Inf.
    """
    positions = positions_of_bitmask(mask, in_features, name=name)
    return PackedWeight((values, positions), in_features, name=name)


def positions_of_bitmask(mask: Tensor, in_features: int, *, name: str = "weight") -> Tensor:
    """Return the positions of a packed weight, ``[N, ceil(K/8)]`` uint8, given its mask of the same shape.

    Args:
        mask: as in `from_bitmask`.
        in_features: K, divisible by 4.
        name: how errors call the weight.

    Raises:
        ArgumentError: K is not divisible by 4, or the mask is no matrix of bytes.
        WeightError: a group doesn't keep exactly two.
    """
    _require_fours(in_features, name)
    mask = checks.require_matrix(mask, f"{name}.bitmask")
    checks.require_dtype(mask, (torch.uint8,), f"{name}.bitmask")
    whole = mask.clone()
    if in_features % 8 and whole.numel():
        _require_empty_end(whole, name)
        whole[:, -1] |= 0b0011_0000  # a valid pair in the unused half, as the table has none without
    positions = _translated(whole, _pairs())
    _require_pairs(positions, name)
    return positions


def _require_fours(in_features: int, name: str) -> None:
    if in_features % 4:
        raise ArgumentError(
            name,
            f"sparse-24-bitmask and packed checkpoints need in features divisible by 4, K is {in_features}",
            "leave the layer dense",
        )


def _require_empty_end(mask: Tensor, name: str) -> None:
    bad = (mask[:, -1] >> 4).nonzero()
    if len(bad):
        raise WeightError(
            f"{name}.bitmask",
            f"row {int(bad[0])} keeps a column beyond K",
            "get a whole copy of the checkpoint",
        )


def _require_pairs(positions: Tensor, name: str) -> None:
    for start, chunk in checks.row_chunks(positions):
        bad = chunk == _NO_PAIR
        if bad.any():
            row, byte = bad.nonzero()[0].tolist()
            raise WeightError(
                f"{name}.bitmask",
                f"row {start + row}: a group among the columns {8 * byte}…{8 * byte + 7} doesn't keep 2 of 4",
                "get a whole copy of the checkpoint",
            )


_NO_PAIR = 0xFF
"""A byte that no valid positions have: both places of a group would be the same."""


@functools.cache
def _masks() -> Tensor:
    """Return the byte of the mask for each byte of positions, ``[256]``."""
    half = torch.tensor([1 << (nibble & 3) | 1 << (nibble >> 2) for nibble in range(16)])
    return torch.tensor(
        [int(half[byte & 15] | half[byte >> 4] << 4) for byte in range(256)], dtype=torch.uint8
    )


@functools.cache
def _pairs() -> Tensor:
    """Return the byte of positions for each byte of a mask, or `_NO_PAIR`, ``[256]``."""
    half = {
        1 << first | 1 << second: first | second << 2 for first, second in itertools.combinations(range(4), 2)
    }
    found = [
        half[mask & 15] | half[mask >> 4] << 4 if mask & 15 in half and mask >> 4 in half else _NO_PAIR
        for mask in range(256)
    ]
    return torch.tensor(found, dtype=torch.uint8)


def _translated(source: Tensor, table: Tensor) -> Tensor:
    """Map each byte through a table, a chunk of rows at a time: int64 indices take eight times the memory."""
    table = table.to(source.device)
    result = torch.empty_like(source)
    for start, chunk in checks.row_chunks(source):
        result[start : start + len(chunk)] = table[chunk.long()]
    return result
