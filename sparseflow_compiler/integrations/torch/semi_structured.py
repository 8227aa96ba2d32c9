"""Convert packed weights to and from torch's ``SparseSemiStructuredTensor``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import PackedWeight, checks, compress_2_4
from sparseflow.runtime.packed import require_24

if TYPE_CHECKING:
    from torch.sparse.semi_structured import _SEMI_STRUCTURED_SPARSE_CONFIG

Layout = Literal["cutlass", "cusparselt"]

_HALF_DTYPES = (torch.float16, torch.bfloat16)


def to_semi_structured(packed: PackedWeight, layout: Layout = "cutlass") -> SparseSemiStructuredTensor:
    """Convert a packed weight ``[N, K]`` to torch's tensor subclass, on the same device.

    Args:
        packed: bfloat16 or float16; N and K must be multiples of what torch demands of the layout.
        layout: ``"cutlass"`` only rearranges the positions, also on a CPU, where torch can't multiply by it;
            ``"cusparselt"`` is made on a GPU by torch's own cuSPARSELt, from the unpacked weight.

    Returns:
        ``torch.sparse.SparseSemiStructuredTensorCUTLASS`` or ``…CUSPARSELT``; it shares the values' memory
        with `packed` if the layout allows it.

    Raises:
        ArgumentError: the layout is unknown, or doesn't support the format, dtype, shape or device.
    """
    kind = _kind(layout)
    require_24(packed, "to_semi_structured(packed)")
    checks.require_dtype(packed.values, _HALF_DTYPES, "to_semi_structured(packed)")
    _require_shape(packed, kind._DTYPE_SHAPE_CONSTRAINTS[packed.dtype], layout)
    if layout == "cusparselt":
        if packed.device.type != "cuda":
            raise ArgumentError(
                "to_semi_structured(layout='cusparselt')",
                f"this layout is made on a GPU, and the weight is on {packed.device}",
                "move the weight to a GPU first, or use layout='cutlass'",
            )
        return kind.from_dense(packed.unpack())
    values, positions = packed.portable()
    places = positions.contiguous().view(torch.int16)  # four groups each, the first one lowest
    meta = torch.empty_like(places).flatten().scatter_(0, _offsets(places), places.flatten())
    return kind(
        packed.shape,
        packed=values,
        meta=meta.view_as(places),
        packed_t=None,
        meta_t=None,
        compressed_swizzled_bitmask=None,
    )


def from_semi_structured(tensor: object, *, name: str = "weight") -> PackedWeight:
    """Convert torch's tensor subclass to a packed weight, on the same device.

    CUTLASS's layout in bfloat16 and float16 is rearranged directly; torch unpacks all others first, on the
    tensor's GPU.

    Args:
        tensor: bfloat16 or float16, or float32 in CUTLASS's layout; not transposed.
        name: how errors call the weight.

    Raises:
        ArgumentError: it is of another class, transposed, or of another dtype.
        WeightError: a value is NaN or Inf, or positions are invalid.
    """
    if not isinstance(tensor, torch.sparse.SparseSemiStructuredTensor):
        raise ArgumentError(
            name,
            f"expected torch's SparseSemiStructuredTensor, got {type(tensor).__name__}",
            "pack dense weights with sparseflow.compress_2_4(w)",
        )
    values: Tensor | None = tensor.packed
    meta: Tensor | None = tensor.meta
    if values is None:
        raise ArgumentError(name, "it is the transpose of a semi-structured tensor", "pass the tensor itself")
    if meta is None or meta.dim() != 2 or tensor.dtype not in _HALF_DTYPES:
        dense: Tensor = tensor.to_dense()  # type: ignore[no-untyped-call]
        return compress_2_4(dense.detach().contiguous(), name=name)
    places = meta.flatten().gather(0, _offsets(meta)).view_as(meta)
    return PackedWeight((values, places.view(torch.uint8)), tensor.shape[1], name=name)


def _kind(layout: Layout) -> type[SparseSemiStructuredTensor]:
    kinds: dict[str, type[SparseSemiStructuredTensor]] = {
        "cutlass": torch.sparse.SparseSemiStructuredTensorCUTLASS,
        "cusparselt": torch.sparse.SparseSemiStructuredTensorCUSPARSELT,
    }
    if layout not in kinds:
        raise ArgumentError(
            f"to_semi_structured(layout={layout!r})",
            "layout must be 'cutlass' or 'cusparselt'",
            "pass one of them",
        )
    return kinds[layout]


def _require_shape(packed: PackedWeight, least: _SEMI_STRUCTURED_SPARSE_CONFIG, layout: Layout) -> None:
    n, k = packed.shape
    rows, columns = least.sparse_min_rows, least.sparse_min_cols
    if not n or not k or n % rows or k % columns:
        raise ArgumentError(
            "to_semi_structured(packed)",
            f"torch's {layout} layout needs N divisible by {rows} and K by {columns}; the weight is {n}×{k}",
            "keep the packed weight: sparseflow.sparse_mm accepts any shape",
        )


def _offsets(places: Tensor) -> Tensor:
    """Return the offset at which CUTLASS stores each word of positions, as torch computes it."""
    from torch.sparse import _semi_structured_conversions as conversions

    offsets: Callable[[int, int, torch.dtype, torch.device], Tensor] = (
        conversions._calculate_meta_reordering_scatter_offsets
    )
    rows, columns = places.shape
    return offsets(rows, columns, places.dtype, places.device)
