"""``sparse_gemm.packed_weight``: the packed form of one or several tensors, by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_list_rules, broken_pattern_rules
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, packed_types, same_size, tensor_type


class PackedWeightOp(VerifiedOp, name="packed_weight", traits=[ext.Pure]):
    """The packed form of the ``merged_weight`` of the same names.

    Values are ``[N, Kp/2]`` in the weight's dtype, positions ``[N, ceil(Kp/8)]`` in ui8; Kp is K rounded
    up to a multiple of 4. ``transposed`` and ``sizes`` as in ``merged_weight``.
    """

    values: ext.Result[Any]
    positions: ext.Result[Any]
    names: ir.ArrayAttr
    pattern: ir.StringAttr

    def broken_rules(self) -> Iterator[str]:
        """Rules: those of the names, a known pattern, and two results whose shapes belong together."""
        values, positions = (tensor_type(result) for result in self.results)
        if values is None or positions is None:
            yield "must return two !torch.vtensor, values and positions"
            return
        yield from broken_pattern_rules(self)
        yield from broken_packed_types(values, positions, SPARSE_DTYPES)
        yield from broken_list_rules(self, values.dim(0))


def broken_packed_types(values: TensorType, positions: TensorType, dtypes: Sequence[str]) -> Iterator[str]:
    """What keeps two tensors from being values, of one of some dtypes, and positions of a packed weight."""
    if values.dtype not in (None, *dtypes):
        yield f"must have values of {', '.join(dtypes)}, not {values.dtype}"
    if positions.dtype not in (None, "ui8"):
        yield f"must have positions of ui8, not {positions.dtype}"
    if values.rank not in (None, 2) or positions.rank not in (None, 2):
        yield "must return two matrices, values and positions"
        return
    if not same_size(values.dim(0), positions.dim(0)):
        yield f"has {values.dim(0)} rows of values but {positions.dim(0)} of positions"
    width = values.dim(1)
    if width is not None and (width % 2 or not same_size(ceil(width / 4), positions.dim(1))):
        yield f"has values of width {width} and positions of {positions.dim(1)}, not Kp/2 and ceil(Kp/8)"


def packed_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    dtype: str,
    *,
    pattern: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
) -> tuple[ir.Value, ir.Value]:
    """Create a reference to a packed weight at the current insertion point.

    Args:
        names: names in the weight source, in the order of their rows.
        shape: (N, K) of the whole.
        dtype: element type of the values.
        pattern: the sparsity pattern.
        transposed: for each name whether to read it transposed; left out, none is.
        sizes: rows that each name contributes; left out, not recorded.
    """
    values, positions = packed_types(*shape, dtype)
    op = PackedWeightOp(values.build(), positions.build(), string_list(names), ir.StringAttr.get(pattern))
    set_lists(op, transposed, sizes)
    return op.results[0], op.results[1]
