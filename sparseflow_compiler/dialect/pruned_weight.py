"""``sparse_gemm.pruned_weight``: the dense form of a packed weight, by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_list_rules, broken_pattern_rules
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.types import FP8, SPARSE_DTYPES, TensorType, tensor_type


class PrunedWeightOp(VerifiedOp, name="pruned_weight", traits=[ext.Pure]):
    """What the ``packed_weight`` of the same names stands for, unpacked: ``[N, K]`` with its zeros.

    In e4m3 it is the ``quantized_weight`` of these names that is unpacked, its scales not applied.

    ``transposed`` and ``sizes`` as in ``merged_weight``. With the unit attribute ``turned`` the result is its
    transpose ``[K, N]``, rows stored one after the other.
    """

    tensor: ext.Result[Any]
    names: ir.ArrayAttr
    pattern: ir.StringAttr

    def broken_rules(self) -> Iterator[str]:
        """Rules: those of the names, a known pattern, and a matrix of a dtype that can be packed."""
        type_ = tensor_type(self.results[0])
        if type_ is None or type_.rank not in (None, 2):
            yield f"must return a !torch.vtensor of rank 2, not '{self.results[0].type}'"
            return
        if type_.dtype not in (None, *SPARSE_DTYPES, FP8):
            yield f"must be of {', '.join((*SPARSE_DTYPES, FP8))}, not {type_.dtype}"
        yield from broken_pattern_rules(self)
        turned = self.attributes.get("turned")
        if turned is not None and not isinstance(turned, ir.UnitAttr):
            yield "'turned' must be a unit attribute"
        yield from broken_list_rules(self, type_.dim(0 if turned is None else 1))


def pruned_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    dtype: str,
    *,
    pattern: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
    turned: bool = False,
) -> ir.Value:
    """Create a reference to an unpacked weight at the current insertion point, as ``packed_weight`` does.

    With `turned` it is to the transpose.
    """
    type_ = TensorType(shape[::-1] if turned else shape, dtype)
    op = PrunedWeightOp(type_.build(), string_list(names), ir.StringAttr.get(pattern))
    set_lists(op, transposed, sizes)
    if turned:
        op.attributes["turned"] = ir.UnitAttr.get()
    return op.results[0]
