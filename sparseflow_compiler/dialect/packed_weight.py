"""``sparse_gemm.packed_weight``: one or several tensors by reference, in a format."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import (
    VerifiedOp,
    attribute,
    broken_format_rules,
    broken_list_rules,
    format_of,
    quoted,
)
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.runtime.formats import Format, find


class PackedWeightOp(VerifiedOp, name="packed_weight", traits=[ext.Pure]):
    """The ``merged_weight`` of the same names as a format stores it: a ``!torch.tuple`` of its parts.

    ``weight`` is the type ``[N, K]`` of that merged weight. ``transposed`` and ``sizes`` as there.
    """

    tensors: ext.Result[Any]
    names: ir.ArrayAttr
    format: ir.StringAttr
    weight: ir.TypeAttr

    def broken_rules(self) -> Iterator[str]:
        """Check the names, that the weight can have the format, and that the result has its parts."""
        yield from broken_format_rules(self)
        found, stored = attribute(self, "weight"), format_of(self)
        type_ = tensor_type(found.value) if isinstance(found, ir.TypeAttr) else None
        n, k = (type_.shape or (None, None)) if type_ is not None and type_.rank == 2 else (None, None)
        if stored is None or type_ is None or type_.dtype is None or n is None or k is None:
            yield f"needs a type 'weight' such as !torch.vtensor<[8,64],bf16>, not {quoted(found)}"
            return
        if reason := stored.why_not(n, k, type_.dtype):
            yield f"can't be '{stored.name}': {reason}"
        expected = _tuple(_part_types(stored, n, k, type_.dtype))
        if str(self.results[0].type) != expected:
            yield f"must return {', '.join(stored.part_names)}, '{expected}', not '{self.results[0].type}'"
        yield from broken_list_rules(self, n)


def _part_types(stored: Format, n: int, k: int, dtype: str) -> list[TensorType]:
    return [TensorType(part.shape, part.dtype) for part in stored.parts(n, k, dtype)]


def _tuple(types: Sequence[TensorType]) -> str:
    """Return the type of a tuple as MLIR prints it, with the dialect's name only once."""
    return f"!torch.tuple<{', '.join(str(type_).removeprefix('!torch.') for type_ in types)}>"


class WeightForms(TypedDict):
    """The arguments of `packed_weight` and `pruned_weight` for both forms of one weight."""

    names: Sequence[str]
    shape: tuple[int, int]
    dtype: str
    format: NotRequired[str]
    transposed: NotRequired[Sequence[bool]]
    sizes: NotRequired[Sequence[int]]


def packed_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    dtype: str,
    *,
    format: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
) -> tuple[ir.Value, ...]:
    """Create a reference to a weight in a format at the current insertion point.

    Args:
        names: names in the weight source, in the order of their rows.
        shape: (N, K) of the merged weight.
        dtype: element type of the weight.
        format: how it is stored.
        transposed: for each name whether to read it transposed; empty if none is.
        sizes: the rows that each name contributes; not recorded if empty.

    Returns:
        The format's parts, in order.
    """
    types = _part_types(find(format), *shape, dtype)
    weight = ir.TypeAttr.get(TensorType(shape, dtype).build())
    op = PackedWeightOp(ir.Type.parse(_tuple(types)), string_list(names), ir.StringAttr.get(format), weight)
    set_lists(op, transposed, sizes)
    parts = ir.Operation.create(
        "torch.prim.TupleUnpack", results=[type_.build() for type_ in types], operands=[op.results[0]]
    )
    return tuple(parts.results)
