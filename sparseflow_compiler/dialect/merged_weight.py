"""``sparse_gemm.merged_weight``: several tensors by reference, their rows concatenated."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Sequence
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, broken_list_rules
from sparseflow.dialect.types import TensorType, tensor_type


class MergedWeightOp(VerifiedOp, name="merged_weight", traits=[ext.Pure]):
    """The rows of several named tensors, concatenated in order along dim 0; biases too, 1-d.

    Optional attributes: ``transposed`` (an i1 for each name: read that matrix transposed) and ``sizes``
    (an i64 for each name: the rows that it contributes). With the unit attribute ``turned`` the result is the
    transpose ``[K, N]`` of the matrix, contiguous.
    """

    tensor: ext.Result[Any]
    names: ir.ArrayAttr

    def broken_rules(self) -> Iterator[str]:
        """Check that names are distinct and not empty, the rank is 1 or 2, and lists have an entry a name."""
        type_ = tensor_type(self.results[0])
        if type_ is None or type_.rank not in (None, 1, 2):
            yield f"must return a !torch.vtensor of rank 1 or 2, not '{self.results[0].type}'"
            return
        turned = self.attributes.get("turned")
        if turned is not None and not isinstance(turned, ir.UnitAttr):
            yield "'turned' must be a unit attribute"
        for flag in ("transposed", "turned"):
            if flag in self.attributes and type_.rank == 1:
                yield f"is '{flag}' but of rank 1; only a matrix can be"
                return
        yield from broken_list_rules(self, type_.dim(0 if turned is None else 1))


def merged_weight(
    names: Sequence[str],
    type_: TensorType,
    *,
    transposed: Sequence[bool] = (),
    sizes: Sequence[int] = (),
    turned: bool = False,
) -> ir.Value:
    """Create a reference to several tensors at the current insertion point.

    Args:
        names: names in the weight source, in the order of their rows.
        type_: type of the result.
        transposed: for each name whether to read it transposed; empty if none is.
        sizes: the rows that each name contributes; not recorded if empty.
        turned: refer to the contiguous transpose ``[K, N]`` instead.
    """
    op = MergedWeightOp(type_.build(), string_list(names))
    set_lists(op, transposed, sizes)
    if turned:
        op.attributes["turned"] = ir.UnitAttr.get()
    return op.results[0]


def string_list(texts: Sequence[str]) -> ir.ArrayAttr:
    """Return an array attribute of strings."""
    return ir.ArrayAttr.get([ir.StringAttr.get(text) for text in texts])


def set_lists(op: ir.OpView, transposed: Sequence[bool], sizes: Sequence[int]) -> None:
    """Set the optional attributes that go with ``names``, without those that hold the default."""
    if any(transposed):
        op.attributes["transposed"] = ir.DenseBoolArrayAttr.get(list(transposed))
    if sizes:
        op.attributes["sizes"] = ir.DenseI64ArrayAttr.get(list(sizes))
