"""The operators of patterns in plain torch, for devices and dtypes that the native library doesn't support.

Results are bit-identical to those of the native CPU operators (``runtime/csrc``).
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def _groups(weight: Tensor, padding: float, size: int = 4) -> Tensor:
    """Reshape ``[N, K]`` to groups ``[N, Kp/size, size]``; pad the last one with ``padding``."""
    n, k = weight.shape
    return F.pad(weight, (0, -k % size), value=padding).reshape(n, -(-k // size), size)


def keep_mask(weight: Tensor, keep: int = 2, size: int = 4) -> Tensor:
    """Return which entries are among the largest magnitudes of their group; ties keep the earlier.

    Args:
        weight: ``[N, K]`` without NaN, of a floating dtype that torch can compare.
        keep: how many entries of a group are kept.
        size: entries in a group.

    Returns:
        bool, ``[N, ceil(K/size), size]``, `keep` entries true in each group; true ones may lie beyond K.
    """
    magnitude = _groups(weight.abs(), -1.0, size)
    # An entry's rank is the number of larger ones. Comparisons of all pairs replace a sort, whose order of
    # ties would differ between devices.
    rank = torch.zeros_like(magnitude, dtype=torch.uint8)
    for i, j in itertools.combinations(range(size), 2):
        earlier_wins = magnitude[..., i] >= magnitude[..., j]
        rank[..., j] += earlier_wins
        rank[..., i] += ~earlier_wins
    return rank < keep


def prune_2_4(weight: Tensor) -> Tensor:
    """Return ``[N, K]`` with all but the two largest magnitudes of each group of four set to zero."""
    keep = keep_mask(weight).flatten(1)[:, : weight.shape[1]]
    return weight.where(keep, torch.zeros((), dtype=weight.dtype, device=weight.device))


def pack_2_4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a 2:4 weight ``[N, K]``; the layout is described in ``runtime/csrc/library.cpp``."""
    keep = keep_mask(weight)
    kept = keep.nonzero()[:, 2].reshape(*keep.shape[:2], 2)
    values = _groups(weight, padding=0.0).gather(2, kept)
    values = values.masked_fill(values == 0, 0).flatten(1)  # −0.0 is stored as 0.0
    nibbles = (kept[..., 0] | kept[..., 1] << 2).to(torch.uint8)
    return values, nibbles_to_bytes(nibbles)


def nibbles_to_bytes(nibbles: Tensor) -> Tensor:
    """Join pairs of nibbles, the first one low: uint8 ``[N, groups]`` to ``[N, ceil(groups/2)]``."""
    nibbles = F.pad(nibbles, (0, nibbles.shape[1] % 2), value=0b0100)  # a valid nibble: positions 0 and 1
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4


def bytes_to_nibbles(positions: Tensor) -> Tensor:
    """Split bytes into nibbles, the low one first: uint8 ``[N, b]`` to ``[N, 2·b]``."""
    return torch.stack((positions & 15, positions >> 4), dim=-1).flatten(1)


def unpack_2_4(values: Tensor, positions: Tensor, in_features: int) -> Tensor:
    """Return the dense weight ``[N, in_features]`` of a packed one."""
    n, groups = values.shape[0], values.shape[1] // 2
    nibbles = bytes_to_nibbles(positions)[:, :groups]
    columns = torch.stack((nibbles & 3, nibbles >> 2), dim=-1).long()
    dense = values.new_zeros(n, groups, 4).scatter_(2, columns, values.reshape(n, groups, 2))
    return dense.reshape(n, 4 * groups)[:, :in_features].contiguous()


def _pairs(block: int, device: torch.device) -> Tensor:
    """Return the pairs of columns of a block in the order of their codes, int64 ``[pairs, 2]``."""
    return torch.combinations(torch.arange(block, device=device))


def prune_blocks(weight: Tensor, block: int) -> Tensor:
    """Return ``[N, K]`` with the two smallest magnitudes of each block set to zero."""
    keep = keep_mask(weight, block - 2, block).flatten(1)[:, : weight.shape[1]]
    return weight.where(keep, torch.zeros((), dtype=weight.dtype, device=weight.device))


def pack_blocks(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Pack a weight that keeps all but two of each block; ``runtime/csrc/library.cpp`` has the layout."""
    keep = keep_mask(weight, block - 2, block)
    n, blocks = keep.shape[:2]
    values = _groups(weight, 0.0, block)[keep].reshape(n, blocks * (block - 2))
    values = values.masked_fill(values == 0, 0)  # −0.0 is stored as 0.0
    dropped = (~keep).nonzero()[:, 2].reshape(n, blocks, 2)
    first, second = dropped.unbind(2)
    codes = first * (2 * block - first - 1) // 2 + second - first - 1
    return values, codes_to_bytes(codes.to(torch.uint8), 4 if block == 6 else 5)


def unpack_blocks(values: Tensor, positions: Tensor, in_features: int, block: int) -> Tensor:
    """Return the dense weight ``[N, in_features]`` of a packed one."""
    n, blocks = values.shape[0], values.shape[1] // (block - 2)
    codes = codes_of_bytes(positions, 4 if block == 6 else 5)[:, :blocks]
    pairs = _pairs(block, values.device)
    keep = torch.ones(len(pairs), block, dtype=torch.bool, device=values.device).scatter_(1, pairs, False)
    dense = values.new_zeros(n, blocks, block).masked_scatter_(keep[codes.long()], values)
    return dense.reshape(n, blocks * block)[:, :in_features].contiguous()


def codes_to_bytes(codes: Tensor, bits: int) -> Tensor:
    """Write codes without gaps, low bits first: uint8 ``[N, b]`` to ``[N, ceil(b·bits/8)]``."""
    places = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    stream = (codes[..., None] >> places & 1).flatten(1)
    stream = F.pad(stream, (0, -stream.shape[1] % 8)).reshape(
        codes.shape[0], -(-codes.shape[1] * bits // 8), 8
    )
    return (stream << torch.arange(8, dtype=torch.uint8, device=codes.device)).sum(2, dtype=torch.uint8)


def codes_of_bytes(positions: Tensor, bits: int) -> Tensor:
    """Read codes of `bits` bits: uint8 ``[N, bytes]`` to as many whole codes as they hold, ``[N, b]``."""
    stream = (
        positions[..., None] >> torch.arange(8, dtype=torch.uint8, device=positions.device) & 1
    ).flatten(1)
    count = stream.shape[1] // bits
    stream = stream[:, : count * bits].reshape(positions.shape[0], count, bits)
    return (stream << torch.arange(bits, dtype=torch.uint8, device=positions.device)).sum(
        2, dtype=torch.uint8
    )
