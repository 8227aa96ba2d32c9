"""The base class of weight formats: which tensors they store and which operator multiplies them.

The first half of the class describes the format. Passes and the dialect use it, so it never imports torch.
The second half handles tensors. Element types are spelled as in MLIR: ``bf16``, ``f8E4M3FN``, ``ui8``.
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
        name: of the tensor, of the buffer in `PackedWeight`, and in files.
        shape: sizes in the portable form; the first is N.
        dtype: element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes; elements have whole bytes."""
        found = re.search(r"\d+", self.dtype)
        assert found is not None, "MLIR's element types name their bits"
        return math.prod(self.shape) * int(found[0]) // 8


@dataclass(frozen=True)
class Format(ABC):
    """How a weight W ``[N, K]`` is stored and multiplied.

    To add a format, write one file with a subclass and add it to ``registry.py``. Everything else (passes,
    lowering, artifacts, the report, `PackedWeight`) iterates over `part_names` and `parts`.

    The operator, in ``torch.ops.sparseflow``, has the schema ``<operator>(x, *parts, bias, residual,
    in_features, epilogue, policy, dense)``, and a fake and a CPU implementation.

    Attributes:
        name: the name that users pass, such as ``"2:4-fp8"``.
        pattern: the sparsity pattern of the weights that it stores.
        operator: the name of its operator.
        part_names: the names of its tensors, in the operator's order.
        lossy: whether unpacking gives only an approximation of the packed weight.
    """

    name: ClassVar[str]
    pattern: ClassVar[str] = "2:4"
    operator: ClassVar[str]
    part_names: ClassVar[tuple[str, ...]]
    lossy: ClassVar[bool] = False

    @abstractmethod
    def parts(self, n: int, k: int, dtype: str) -> tuple[Part, ...]:
        """Return the tensors of a weight ``[n, k]`` in the portable form, which is the saved one."""

    def multiplied(self, dtype: str) -> str:
        """Return the element type that is multiplied; with N and K it is the key of policies."""
        return dtype

    def dense_type(self, dtype: str) -> str:
        """Return the element type of the dense form ``[N, K]``, which the operator takes as ``dense``."""
        return dtype

    def why_not(self, n: int, k: int, dtype: str, epilogue: str = "none") -> str | None:
        """Return why a layer can't have this format, as a sentence for the report; None if it can.

        Args:
            n: out features.
            k: in features.
            dtype: element type of the layer's weight.
            epilogue: that of ``sparse_gemm.linear``.
        """
        known = ", ".join(WEIGHT_DTYPES)
        return None if dtype in WEIGHT_DTYPES else f"it is {dtype}; {self.name} stores {known}"

    def nbytes(self, n: int, k: int, dtype: str) -> int:
        """Return the bytes of the portable form."""
        return sum(part.nbytes for part in self.parts(n, k, dtype))

    @property
    def op(self) -> Callable[..., Tensor]:
        """The operator; the first access imports the module that registers it."""
        return _operator(self)

    def traced_op(
        self, device_type: str, policy: Sequence[int], *, normed: bool = False
    ) -> Callable[..., Tensor]:
        """Return the operator for a program that torch.compile makes for every M at once.

        It differs from `op` where that decomposes while it is traced, and a policy has for few rows what only
        the whole operator can call.

        Args:
            device_type: where it runs.
            policy: the operator's argument.
            normed: whether a norm makes what the layer reads.
        """
        return self.op

    def load(self) -> None:
        """Import the module that registers the operator."""
        import sparseflow.runtime.ops  # noqa: F401  registers torch.ops.sparseflow.*

    @abstractmethod
    def pack(self, weight: Tensor) -> Tensors:
        """Pack a contiguous, finite weight ``[N, K]`` of `pattern` into the portable form, on its device."""

    @abstractmethod
    def dense(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the dense form ``[N, K]`` that the operator takes, from the layout of any device."""

    def unpack(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the weight ``[N, K]`` that the tensors represent; in float32 if the format is lossy."""
        return self.dense(tensors, in_features)

    def error(self, weight: Tensor, tensors: Tensors) -> float | None:
        """Return ‖W − unpack()‖ / ‖W‖ in the Frobenius norm, 0 for a zero weight; None if not lossy.

        Args:
            weight: W, ``[N, K]``.
            tensors: W packed by `pack`.
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
        """Concatenate the rows of several weights, all in the portable form."""
        import torch

        if len(weights) == 1:
            return weights[0]
        return tuple(torch.cat(parts) for parts in zip(*weights, strict=True))

    def shard(self, tensors: Tensors, in_features: int, dim: int, rank: int, world: int) -> Tensors:
        """Return one of `world` equal shards of a weight, both in the portable form.

        Args:
            tensors: of the whole weight.
            in_features: K of the whole weight.
            dim: 0 splits the rows, N; 1 the columns, K.
            rank: index of the shard.
            world: number of shards.

        Raises:
            ArgumentError: an index is out of range, or the size can't be split evenly.
        """
        size, unit = (tensors[0].shape[0], 1) if dim == 0 else (in_features, self.k_unit)
        if not 0 <= rank < world or dim not in (0, 1):
            raise ArgumentError(
                f"shard(dim={dim}, rank={rank}, world={world})", "needs dim 0 or 1 and 0 <= rank < world"
            )
        if size % (world * unit):
            raise ArgumentError(
                f"shard {rank} of {world}",
                f"{'NK'[dim]} = {size} must be a multiple of {world * unit}"
                + (f": {self.name} splits K between groups of {unit}" if unit > 1 else ""),
                "keep this layer whole on every rank",
            )
        first, last = rank * size // world, (rank + 1) * size // world
        if dim == 0:
            return tuple(tensor[first:last] for tensor in tensors)
        return self.columns(tensors, first, last)

    k_unit: ClassVar[int] = 1
    """The size of the groups of columns between which a weight can be split."""

    @abstractmethod
    def columns(self, tensors: Tensors, first: int, last: int) -> Tensors:
        """Return the columns from `first` up to, not including, `last`, both multiples of `k_unit`."""

    def require(self, tensors: Tensors, in_features: int, dtype: str, name: str) -> None:
        """Refuse tensors of other shapes, element types or devices than `parts` says.

        Raises:
            ArgumentError: names the tensor and the requirement.
        """
        from sparseflow.runtime.formats.tensors import require_parts

        n = tensors[0].shape[0] if tensors and tensors[0].dim() else 0
        require_parts(tensors, self.parts(n, in_features, dtype), in_features, name)

    def check(self, tensors: Tensors, in_features: int, name: str) -> None:
        """Refuse tensors of untrusted origin with invalid content; the base class refuses NaN and Inf.

        Raises:
            WeightError: names the first invalid position.
        """
        from sparseflow.runtime import checks

        for part, tensor in zip(self.part_names, tensors, strict=True):
            if tensor.is_floating_point() and not tensor.is_meta:
                checks.require_finite(tensor if tensor.dim() == 2 else tensor[:, None], f"{name}.{part}")

    def to_device(self, tensors: Tensors, in_features: int) -> Tensors:
        """Convert the portable form to the layout of the device that it is on."""
        return tensors

    def portable(self, tensors: Tensors, in_features: int) -> Tensors:
        """Convert the layout of a device to the portable form, on that device."""
        return tensors

    def settled(self, tensors: Tensors, in_features: int) -> Tensors:
        """Move the result of `to_device` to memory of its own, if that frees memory; by default return it."""
        return tensors

    def held_bytes(self, tensors: Tensors, in_features: int) -> int:
        """Return the bytes that the tensors take on their device, padding included."""
        return sum(tensor.nbytes for tensor in tensors)

    def __reduce__(self) -> tuple[Callable[[str], Format], tuple[str]]:
        """Make copies and pickles resolve to the registered object."""
        from sparseflow.runtime.formats.registry import find

        return find, (self.name,)


@functools.cache  # not stored in the object: a model that holds it would seem to change in its first call
def _operator(stored: Format) -> Callable[..., Tensor]:
    import torch

    stored.load()
    found: Callable[..., Tensor] = getattr(torch.ops.sparseflow, stored.operator).default
    return found
