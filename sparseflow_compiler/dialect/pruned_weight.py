"""``sparse_gemm.pruned_weight``: the dense form of a packed weight, by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_list_rules, broken_pattern_rules
from sparseflow.dialect.merged_weight import set_lists, string_list
from sparseflow.dialect.types import FP8, SPARSE_DTYPES, TensorType, tensor_type


class PrunedWeightOp(VerifiedOp, name="pruned_weight", traits=[ext.Pure]):  # type: ignore[call-arg]
    """What the ``packed_weight`` of the same names stands for, unpacked: ``[N, K]`` with its zeros.

    In e4m3 it is the ``quantized_weight`` of these names that is unpacked, its scales not applied.

    ``transposed`` and ``sizes`` as in ``merged_weight``.
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
        yield from broken_list_rules(self, type_.dim(0))


def pruned_weight(
    names: Sequence[str],
    shape: tuple[int, int],
    dtype: str,
    *,
    pattern: str = "2:4",
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
) -> ir.Value:
    """Create a reference to an unpacked weight at the current insertion point, as ``packed_weight`` does."""
    op = PrunedWeightOp(TensorType(shape, dtype).build(), string_list(names), ir.StringAttr.get(pattern))
    set_lists(op, transposed, sizes)
    return op.results[0]
