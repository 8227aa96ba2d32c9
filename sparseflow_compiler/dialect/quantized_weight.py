"""``sparse_gemm.quantized_weight``: the packed form of one or several tensors in fp8, by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_list_rules, broken_pattern_rules, quoted
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.packed_weight import broken_packed_types
from sparseflow.dialect.types import FP8, TensorType, compatible, packed_types, tensor_type


class QuantizedWeightOp(VerifiedOp, name="quantized_weight", traits=[ext.Pure]):
    """The packed form of the ``merged_weight`` of the same names, its rows quantised.

    Values and positions as in ``packed_weight``, the values in e4m3; scales ``[N]`` in f32, one for each
    row. ``transposed`` and ``sizes`` as in ``merged_weight``.
    """

    values: ext.Result[Any]
    positions: ext.Result[Any]
    scales: ext.Result[Any]
    names: ir.ArrayAttr
    pattern: ir.StringAttr

    def broken_rules(self) -> Iterator[str]:
        """Rules: those of a packed weight in e4m3, and one f32 scale a row."""
        values, positions, scales = (tensor_type(result) for result in self.results)
        if values is None or positions is None or scales is None:
            yield "must return three !torch.vtensor, values, positions and scales"
            return
        yield from broken_pattern_rules(self)
        yield from broken_packed_types(values, positions, (FP8,))
        if not compatible(scales, TensorType((values.dim(0),), "f32")):
            yield f"needs f32 scales of shape [N] with N = {values.dim(0)}, not {quoted(scales)}"
        yield from broken_list_rules(self, values.dim(0))


def quantized_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    *,
    pattern: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Create a reference to a quantised weight at the current insertion point, as ``packed_weight`` does."""
    types = (*packed_types(*shape, FP8), TensorType(shape[:1], "f32"))
    results = (type_.build() for type_ in types)
    op = QuantizedWeightOp(*results, string_list(names), ir.StringAttr.get(pattern))
    set_lists(op, transposed, sizes)
    return op.results[0], op.results[1], op.results[2]
