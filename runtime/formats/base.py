"""What a weight format is: which tensors it stores, how they are made, and which operator multiplies them.

The first half of a format describes; passes and the dialect use it, so it never imports torch. The second
half handles tensors. Element types are written as MLIR spells them: ``bf16``, ``f8E4M3FN``, ``ui8``.
"""

from __future__ import annotations

import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    Tensors: TypeAlias = tuple[Tensor, ...]
    """The tensors of a weight, in the order of its format's parts."""

WEIGHT_DTYPES = ("f32", "f16", "bf16")
"""Element types of the weights that formats store."""


@dataclass(frozen=True)
class Part:
    """One tensor of a stored weight.

    Attributes:
        name: its name, also as a buffer of `PackedWeight` and in files.
        shape: its sizes in the portable form; the first is N.
        dtype: its element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its size in bytes; elements have whole bytes."""
        found = re.search(r"\d+", self.dtype)
        assert found is not None, "MLIR's element types name their bits"
        return math.prod(self.shape) * int(found[0]) // 8


@dataclass(frozen=True)
class Format(ABC):
    """How a weight W ``[N, K]`` is stored and multiplied.

    To add a format, write one file with a subclass and name it in ``registry.py``. Everything else (passes,
    lowering, artifacts, the report, `PackedWeight`) iterates over `part_names` and `parts`.

    The operator, in ``torch.ops.sparseflow``, has the schema ``<operator>(x, *parts, bias, residual,
    in_features, epilogue, policy, dense)``, and fake and CPU implementations.

    Attributes:
        name: what users call it: ``"2:4-fp8"``.
        pattern: which entries of a weight it can store.
        operator: the name of its operator.
        part_names: the names of its tensors, in the operator's order.
        lossy: whether the weight that it stands for isn't exactly the one that was packed.
    """

    name: ClassVar[str]
    pattern: ClassVar[str] = "2:4"
    operator: ClassVar[str]
    part_names: ClassVar[tuple[str, ...]]
    lossy: ClassVar[bool] = False

    @abstractmethod
    def parts(self, n: int, k: int, dtype: str) -> tuple[Part, ...]:
        """The tensors in the portable form, which is saved, of a weight ``[n, k]`` of an element type."""

    def multiplied(self, dtype: str) -> str:
        """The element type that is multiplied: with N and K, what policies are looked up by."""
        return dtype

    def dense_type(self, dtype: str) -> str:
        """The element type of the dense form ``[N, K]`` that the operator takes as ``dense``."""
        return dtype

    def why_not(self, n: int, k: int, dtype: str, epilogue: str = "none") -> str | None:
        """Say why a layer can't have this format, in a sentence for the report; None where it can.

        Args:
            n: out features.
            k: in features.
            dtype: of the layer's weight.
            epilogue: how the layer ends, as ``sparse_gemm.linear`` has it.
        """
        known = ", ".join(WEIGHT_DTYPES)
        return None if dtype in WEIGHT_DTYPES else f"it is {dtype}; {self.name} stores {known}"

    def nbytes(self, n: int, k: int, dtype: str) -> int:
        """Bytes of the portable form."""
        return sum(part.nbytes for part in self.parts(n, k, dtype))

    @property
    def op(self) -> Callable[..., Tensor]:
        """The operator, which exists from now on."""
        return _operator(self)

    def load(self) -> None:
        """Import what registers the operator."""
        import sparseflow.runtime.ops  # noqa: F401  registers torch.ops.sparseflow.*

    @abstractmethod
    def pack(self, weight: Tensor) -> Tensors:
        """Store a contiguous, finite weight ``[N, K]`` of `pattern`, in the portable form on its device."""

    @abstractmethod
    def dense(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the dense form ``[N, K]`` that the operator takes, from the form of any device."""

    def unpack(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the weight ``[N, K]`` that the tensors stand for; of a lossy format in float32."""
        return self.dense(tensors, in_features)

    def error(self, weight: Tensor, tensors: Tensors) -> float | None:
        """Return ‖W − unpack()‖ / ‖W‖ in the Frobenius norm, 0 for a zero weight; None of an exact format.

        Args:
            weight: W, ``[N, K]``.
            tensors: what `pack` made of it.
        """
        from sparseflow.runtime.checks import row_chunks

        if not self.lossy:
            return None
        lost = whole = 0.0
        for start, rows in row_chunks(weight):
            there = tuple(tensor[start : start + rows.shape[0]] for tensor in tensors)
            wide = rows.double()
            lost += float((wide - self.unpack(there, weight.shape[1]).double()).square().sum())
            whole += float(wide.square().sum())
        return (lost / whole) ** 0.5 if whole else 0.0

    def join(self, weights: Sequence[Tensors]) -> Tensors:
        """Store the rows of several weights one below the other; all in the portable form."""
        import torch

        if len(weights) == 1:
            return weights[0]
        return tuple(torch.cat(parts) for parts in zip(*weights, strict=True))

    def shard(self, tensors: Tensors, in_features: int, dim: int, rank: int, world: int) -> Tensors:
        """Cut one of `world` equal pieces out of a weight, both in the portable form.

        Args:
            tensors: of the whole.
            in_features: K of the whole.
            dim: 0 cuts the rows, N; 1 the columns, K.
            rank: which piece.
            world: how many there are.

        Raises:
            ArgumentError: there are no such pieces.
        """
        size, unit = (tensors[0].shape[0], 1) if dim == 0 else (in_features, self.k_unit)
        if not 0 <= rank < world or dim not in (0, 1):
            raise ArgumentError(f"shard {rank} of {world} along {dim}", "it is no piece of a matrix")
        if size % (world * unit):
            raise ArgumentError(
                f"shard {rank} of {world}",
                f"{'NK'[dim]} = {size} must be a multiple of {world * unit}"
                + (f": {self.name} cuts K between groups of {unit}" if unit > 1 else ""),
                "keep this layer whole on every rank",
            )
        first, last = rank * size // world, (rank + 1) * size // world
        if dim == 0:
            return tuple(tensor[first:last] for tensor in tensors)
        return self.columns(tensors, first, last)

    k_unit: ClassVar[int] = 1
    """Between how many columns a weight can be cut."""

    @abstractmethod
    def columns(self, tensors: Tensors, first: int, last: int) -> Tensors:
        """Cut out the columns from `first` up to `last`, multiples of `k_unit`."""

    def require(self, tensors: Tensors, in_features: int, dtype: str, name: str) -> None:
        """Refuse tensors of other shapes, element types or devices than `parts` says.

        Raises:
            ArgumentError: names the tensor and what it must be.
        """
        from sparseflow.runtime.formats.tensors import require_parts

        n = tensors[0].shape[0] if tensors and tensors[0].dim() else 0
        require_parts(tensors, self.parts(n, in_features, dtype), in_features, name)

    def check(self, tensors: Tensors, in_features: int, name: str) -> None:
        """Refuse tensors from outside whose content no weight can have; the base refuses NaN and Inf.

        Raises:
            WeightError: names the first bad place.
        """
        from sparseflow.runtime import checks

        for part, tensor in zip(self.part_names, tensors, strict=True):
            if tensor.is_floating_point() and not tensor.is_meta:
                checks.require_finite(tensor if tensor.dim() == 2 else tensor[:, None], f"{name}.{part}")

    def to_device(self, tensors: Tensors, in_features: int) -> Tensors:
        """Bring the portable form into the layout of the device that it is on."""
        return tensors

    def portable(self, tensors: Tensors, in_features: int) -> Tensors:
        """Bring the layout of a device into the portable form, on that device."""
        return tensors

    def settled(self, tensors: Tensors, in_features: int) -> Tensors:
        """Copy what `to_device` made to memory that nothing else shares, where that matters."""
        return tensors

    def held_bytes(self, tensors: Tensors, in_features: int) -> int:
        """Bytes that the tensors take on their device, padding included."""
        return sum(tensor.nbytes for tensor in tensors)

    def __reduce__(self) -> tuple[Callable[[str], Format], tuple[str]]:
        """Copies and pickles are the one registered object."""
        from sparseflow.runtime.formats.registry import find

        return find, (self.name,)


@functools.cache  # not in the object, which models hold: they would seem to change when they run
def _operator(stored: Format) -> Callable[..., Tensor]:
    import torch

    stored.load()
    found: Callable[..., Tensor] = getattr(torch.ops.sparseflow, stored.operator).default
    return found
