"""The base class of the formats that keep all but two of each 6 or 8 columns: values and a code a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.errors import WeightError
from sparseflow.runtime.formats.base import Format, Part

if TYPE_CHECKING:
    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors
    from sparseflow.runtime.tiled_weight import TiledWeight

CODE_BITS = {6: 4, 8: 5}
"""The bits of a block's code, by its columns: 15 pairs of six columns and 28 of eight can be dropped."""


@dataclass(frozen=True)
class AllButTwo(Format):
    """Values ``[N, (block−2)·b]`` in column order and codes ``[N, ceil(b·bits/8)]``, with b = ceil(K/block).

    A block's code is the rank of its pair of dropped columns (i, j), i < j, in lexicographic order. The codes
    of a row follow each other without gaps, low bits first, which is within 4% (6:8) and 2% (4:6) of the
    pattern's entropy. On CUDA a weight of 16 bits is stored as tiles, which its kernel reads, and positions
    are 1-d (``TiledWeight``).

    Attributes:
        block: the columns of a block.
    """

    part_names: ClassVar[tuple[str, ...]] = ("values", "positions")
    block: ClassVar[int]

    def parts(self, n: int, k: int, dtype: str) -> tuple[Part, ...]:
        """Return the values, in the weight's element type, and the codes."""
        blocks = -(-k // self.block)
        return (
            Part("values", (n, (self.block - 2) * blocks), dtype),
            Part("positions", (n, -(-blocks * CODE_BITS[self.block] // 8)), "ui8"),
        )

    def pack(self, weight: Tensor) -> Tensors:
        """Pack with the native operator, or on other devices in plain torch."""
        from sparseflow.runtime import ops

        values, positions = ops.pack_blocks(weight, self.block)
        return values, positions

    def dense(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the values at their columns, zeros elsewhere."""
        from sparseflow.runtime import ops

        if (tiled := self._tiled(tensors, in_features)) is not None:
            dense: Tensor = tiled.dense()
            return dense
        unpacked: Tensor = ops.unpack_blocks(*tensors, in_features, self.block)
        return unpacked

    def columns(self, tensors: Tensors, first: int, last: int) -> Tensors:
        """Return whole blocks; codes are repacked, as the first one may begin within a byte."""
        from sparseflow.runtime.portable import codes_of_bytes, codes_to_bytes

        values, positions = tensors
        begin, end, bits = first // self.block, last // self.block, CODE_BITS[self.block]
        kept = values[:, begin * (self.block - 2) : end * (self.block - 2)].contiguous()
        return kept, codes_to_bytes(codes_of_bytes(positions, bits)[:, begin:end], bits)

    def require(self, tensors: Tensors, in_features: int, dtype: str, name: str) -> None:
        """Check like the base class; the operators check tiles themselves."""
        from sparseflow.runtime import checks

        if self._tiled(tensors, in_features) is None:
            super().require(tensors, in_features, dtype, name)
        else:
            checks.require_matrix(tensors[0], f"{name}.values")

    def to_device(self, tensors: Tensors, in_features: int) -> Tensors:
        """Convert 16-bit weights to CUDA's tiles if this build has CUDA kernels."""
        import torch

        values, positions = tensors
        known = values.is_cuda and values.itemsize == 2 and positions.dim() == 2
        if not known or not torch.ops.sparseflow.cuda_kernels_built():
            return tensors
        from sparseflow.runtime.tiled_weight import TiledWeight

        tiled = TiledWeight.from_portable(values, positions, in_features, self.block)
        return tiled.values, tiled.positions

    def portable(self, tensors: Tensors, in_features: int) -> Tensors:
        """Convert tiles back."""
        tiled = self._tiled(tensors, in_features)
        return tiled.portable() if tiled else tensors

    def settled(self, tensors: Tensors, in_features: int) -> Tensors:
        """Move a CUDA weight to compact memory and free the rest of its segment, as `TwoOfFour` does."""
        import torch

        tiled = self._tiled(tensors, in_features)
        if tiled is None:
            return tensors
        torch.cuda.empty_cache()
        settled = tiled.settled()
        return settled.values, settled.positions

    def _tiled(self, tensors: Tensors, in_features: int) -> TiledWeight | None:
        """Return the weight in CUDA's layout; None if its tensors are in the portable form."""
        values, positions = tensors
        if not values.is_cuda or positions.dim() != 1:
            return None
        from sparseflow.runtime.tiled_weight import TiledWeight

        return TiledWeight(values, positions, in_features, self.block)

    def check(self, tensors: Tensors, in_features: int, name: str) -> None:
        """Refuse NaN and Inf, codes that stand for no pair of columns, and values beyond K."""
        from sparseflow.runtime.portable import codes_of_bytes

        values, positions = tensors
        if values.is_meta or positions.dim() == 1:
            return
        super().check(tensors, in_features, name)
        codes = codes_of_bytes(positions, CODE_BITS[self.block])[:, : -(-in_features // self.block)]
        bad = codes >= self.block * (self.block - 1) // 2
        if bad.any():
            row, block = bad.nonzero()[0].tolist()
            raise WeightError(
                f"{name}.positions",
                f"row {row}, block {block} has the code {int(codes[row, block])}, which stands for no two of "
                f"{self.block} columns",
                f"pack the weight: sparseflow.runtime.packed.pack(w, {self.name!r})",
            )
        if in_features % self.block:
            self._require_padding(values, positions, in_features, name)

    def _require_padding(self, values: Tensor, positions: Tensor, in_features: int, name: str) -> None:
        from sparseflow.runtime import portable

        whole = portable.unpack_blocks(
            values, positions, -(-in_features // self.block) * self.block, self.block
        )
        bad = (whole[:, in_features:] != 0).any(1)
        if bad.any():
            raise WeightError(
                f"{name}.values",
                f"row {int(bad.nonzero()[0])} stores a nonzero beyond K={in_features}",
                f"pack the weight: sparseflow.runtime.packed.pack(w, {self.name!r})",
            )
