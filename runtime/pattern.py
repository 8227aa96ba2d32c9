"""Sparsity patterns: at most k nonzeros in each block of n along a weight's last dimension."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import checks, ops, portable

MAX_BLOCK = 32
"""The largest block of a pattern. With two zeros in 32, nothing is left to gain."""

_TEXT = re.compile(r"([1-9]\d?):([1-9]\d?)", re.ASCII)


@dataclass(frozen=True)
class Pattern:
    """At most `keep` nonzeros in each block of `block` columns: 2N − 2 of 2N, such as 2:4, 4:6, 6:8.

    Block b covers the columns ``b · block …``. If K isn't a multiple of the block, the last block is shorter
    and keeps at most `keep` entries too; −0.0 counts as zero.

    Attributes:
        keep: nonzeros of a block, at most.
        block: columns of a block.

    Raises:
        ArgumentError: the numbers aren't 2N − 2 and 2N for an N from 2 to 16.
    """

    keep: int
    block: int

    def __post_init__(self) -> None:
        if self.block % 2 or not 4 <= self.block <= MAX_BLOCK or self.keep != self.block - 2:
            raise ArgumentError(
                f"pattern {self.keep}:{self.block}",
                f"must keep all but two of an even number, from 2:4 to {MAX_BLOCK - 2}:{MAX_BLOCK}",
                "use 2:4, 4:6 or 6:8",
            )

    @classmethod
    def of(cls, name: object) -> Pattern:
        """Return the pattern of a name such as ``"6:8"``.

        Raises:
            ArgumentError: it is no such name.
        """
        match = _TEXT.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise ArgumentError(f"pattern {name!r:.40}", "must be a text such as '2:4', '4:6' or '6:8'")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """Its name, such as ``"6:8"``."""
        return f"{self.keep}:{self.block}"

    @property
    def density(self) -> float:
        """The share of entries that it keeps."""
        return self.keep / self.block

    def mask(self, scores: Tensor) -> Tensor:
        """Return which entries have the largest magnitudes of their block, bool ``[N, K]``.

        Args:
            scores: ``[N, K]`` without NaN, of any floating dtype; ties keep the earlier entry.
        """
        return portable.keep_mask(scores, self.keep, self.block).flatten(1)[:, : scores.shape[1]]

    def prune(self, w: Tensor, *, name: str = "weight") -> Tensor:
        """Return a weight with only the largest magnitudes of each block; ties keep the earlier.

        Args:
            w: weight ``[N, K]`` in float32, bfloat16, float16 or float64, on any device; it isn't changed.
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
        weight = weight.contiguous()
        if weight.dtype != torch.float64 and self in PATTERNS:
            two_of_four = self == TWO_OF_FOUR
            pruned: Tensor = ops.prune_2_4(weight) if two_of_four else ops.prune_blocks(weight, self.block)
            return pruned
        return weight.where(self.mask(weight), torch.zeros((), dtype=weight.dtype, device=weight.device))

    def holds(self, w: Tensor) -> bool:
        """Return whether a weight ``[N, K]`` has this pattern.

        Raises:
            ArgumentError: not a 2-d strided tensor with data.
        """
        return self.first_violation(w) is None

    def first_violation(self, w: Tensor, *, name: str = "weight") -> tuple[int, int] | None:
        """Return (row, block) of the first block with too many nonzeros, or None.

        Args:
            w: weight ``[N, K]`` of any dtype. NaN counts as a nonzero.
            name: the weight's name in errors.

        Raises:
            ArgumentError: not a 2-d strided tensor with data.
        """
        weight = checks.require_matrix(w, name)
        checks.require_data(weight, name)
        scan = checks.native_scan("first_not_2_4", weight) if self == TWO_OF_FOUR else None
        if scan is not None:
            return scan(weight)
        # A dense weight shows it in its first rows, so that checking for several patterns costs little.
        few = [(0, weight[:8])] if weight.numel() else []
        for start, chunk in (*few, *(checks.row_chunks(weight) if few else ())):
            crowded = _nonzeros_by_block(chunk, self.block) > self.keep
            if crowded.any():
                row, block = crowded.nonzero()[0].tolist()
                return start + row, block
        return None

    def __str__(self) -> str:
        return self.name


TWO_OF_FOUR = Pattern(2, 4)
PATTERNS = (TWO_OF_FOUR, Pattern(4, 6), Pattern(6, 8))
"""The patterns that weights are checked for, the sparsest first. A weight that is 2:4 is 4:6 and 6:8 too."""


def pattern_of(w: Tensor) -> Pattern | None:
    """Return the sparsest of 2:4, 4:6 and 6:8 that a weight ``[N, K]`` has, or None.

    Raises:
        ArgumentError: not a 2-d strided tensor with data.
    """
    return next((pattern for pattern in PATTERNS if pattern.holds(w)), None)


def prune_24(w: Tensor, *, name: str = "weight") -> Tensor:
    """Return a weight with only the two largest magnitudes of each group of four; see `Pattern.prune`."""
    return TWO_OF_FOUR.prune(w, name=name)


def is_24(w: Tensor) -> bool:
    """Return whether each group of four of ``w`` ``[N, K]`` has at most two nonzeros; −0.0 counts as zero.

    Raises:
        ArgumentError: not a 2-d strided tensor with data.
    """
    return TWO_OF_FOUR.holds(w)


def first_violation(w: Tensor, *, name: str = "weight") -> tuple[int, int] | None:
    """Return (row, group) of the first group of four with more than two nonzeros, or None.

    Args:
        w: weight ``[N, K]`` of any dtype; group g covers the columns 4g … 4g+3. NaN counts as a nonzero.
        name: the weight's name in errors.

    Raises:
        ArgumentError: not a 2-d strided tensor with data.
    """
    return TWO_OF_FOUR.first_violation(w, name=name)


def _nonzeros_by_block(weight: Tensor, block: int) -> Tensor:
    """Return the number of nonzeros in each block, ``[N, ceil(K/block)]``."""
    nonzero = (weight != 0).contiguous()
    if weight.shape[1] % block:
        nonzero = F.pad(nonzero, (0, -weight.shape[1] % block))
    # Bools are bytes of 0 or 1: four of them are one int32, whose top byte after multiplying by 0x01010101 is
    # their sum. This is much faster than a reduction over a small dimension.
    if block == 4:
        return nonzero.view(torch.int32) * 0x01010101 >> 24
    if block == 8:
        return nonzero.view(torch.int64) * 0x0101010101010101 >> 56
    columns = nonzero.view(torch.uint8).reshape(weight.shape[0], -1, block).unbind(2)
    return torch.stack(columns).sum(0, dtype=torch.uint8)


def relative_difference(weight: Tensor, pruned: Tensor) -> float:
    """Return ‖W − W'‖ / ‖W‖ in the Frobenius norm; 0 for a zero weight and on the meta device."""
    if weight.is_meta or pruned is weight:
        return 0.0
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norm = torch.linalg.vector_norm(weight, dtype=dtype)
    lost = torch.linalg.vector_norm(weight - pruned, dtype=dtype)
    return float(lost / norm) if norm else 0.0
