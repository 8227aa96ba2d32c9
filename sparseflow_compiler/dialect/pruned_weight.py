"""``sparse_gemm.pruned_weight``: the dense form of a packed weight, by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_format_rules, broken_list_rules, format_of
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, tensor_type
from sparseflow.runtime.formats import find


class PrunedWeightOp(VerifiedOp, name="pruned_weight", traits=[ext.Pure]):
    """The dense form of the ``packed_weight`` of the same names: ``[N, K]`` with its zeros.

    The format says its element type: for ``2:4`` the weight's, for ``2:4-fp8`` e4m3, not scaled.

    ``transposed`` and ``sizes`` are as in ``merged_weight``. With the unit attribute ``turned`` the result is
    the transpose ``[K, N]``, contiguous.
    """

    tensor: ext.Result[Any]
    names: ir.ArrayAttr
    format: ir.StringAttr

    def broken_rules(self) -> Iterator[str]:
        """Check the names, the format, and that the result is a matrix of the dense form's element type."""
        type_ = tensor_type(self.results[0])
        if type_ is None or type_.rank not in (None, 2):
            yield f"must return a !torch.vtensor of rank 2, not '{self.results[0].type}'"
            return
        yield from broken_format_rules(self)
        if (stored := format_of(self)) is not None:
            known = tuple(dict.fromkeys(map(stored.dense_type, SPARSE_DTYPES)))
            if type_.dtype not in (None, *known):
                yield f"must be of {', '.join(known)}, not {type_.dtype}"
        turned = self.attributes.get("turned")
        if turned is not None and not isinstance(turned, ir.UnitAttr):
            yield "'turned' must be a unit attribute"
        yield from broken_list_rules(self, type_.dim(0 if turned is None else 1))


def pruned_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    dtype: str,
    *,
    format: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
    turned: bool = False,
) -> ir.Value:
    """Create a reference to the dense form of a packed weight at the current insertion point.

    Args:
        names: as in ``packed_weight``, like `shape`, `dtype`, `format`, `transposed` and `sizes`.
        shape: (N, K) of the merged weight.
        dtype: element type of the weight.
        format: how the packed weight is stored.
        transposed: for each name whether to read it transposed; empty if none is.
        sizes: the rows that each name contributes; not recorded if empty.
        turned: refer to the contiguous transpose ``[K, N]`` instead.
    """
    type_ = TensorType(shape[::-1] if turned else shape, find(format).dense_type(dtype))
    op = PrunedWeightOp(type_.build(), string_list(names), ir.StringAttr.get(format))
    set_lists(op, transposed, sizes)
    if turned:
        op.attributes["turned"] = ir.UnitAttr.get()
    return op.results[0]
