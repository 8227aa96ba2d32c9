"""``sparse_gemm.weight``: a tensor by reference."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import VerifiedOp, string_attribute, text_of
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.runtime.formats import sparse_names

KIND = "sparse_gemm.kind"
"""Discardable attribute of a reference to a tensor that isn't a parameter: one of `KINDS`."""

PATTERN = "sparse_gemm.pattern"
"""Discardable attribute: the sparsity pattern of a weight that isn't 2:4."""

KINDS = ("buffer", "constant")
"""A buffer of the model, which forward may write; or another tensor, such as a plain attribute."""


class WeightOp(VerifiedOp, name="weight", traits=[ext.Pure]):
    """A parameter, buffer or constant of the module, by its name in the weight source.

    With the unit attribute ``transposed`` the result is the named matrix with its two dimensions
    exchanged; with ``contiguous`` it is contiguous, copied if the tensor isn't. The discardable attribute
    ``sparse_gemm.dense`` says why layers that read it stay dense, ``sparse_gemm.pattern`` names its sparsity
    pattern, as its exact format is called, if that isn't 2:4. ``sparse_gemm.kind`` marks a ``buffer`` or
    ``constant``: only parameters are weights, which can be pruned, packed and merged.
    """

    tensor: ext.Result[Any]
    name: ir.StringAttr

    def broken_rules(self) -> Iterator[str]:
        """Check the name, that the result is a tensor, and the unit and discardable attributes."""
        if not string_attribute(self, "name"):
            yield "needs a non-empty string 'name'"
        type_ = tensor_type(self.results[0])
        if type_ is None:
            yield f"must return a !torch.vtensor, not '{self.results[0].type}'"
        else:
            for name in ("transposed", "contiguous"):
                if name in self.attributes:
                    yield from self._broken_unit(name, type_)
        if "sparse_gemm.dense" in self.attributes and not string_attribute(self, "sparse_gemm.dense"):
            yield "'sparse_gemm.dense' must be a string that says why"
        if PATTERN in self.attributes and string_attribute(self, PATTERN) not in sparse_names():
            yield f"'{PATTERN}' must be one of {', '.join(sparse_names())}"
        if KIND in self.attributes and string_attribute(self, KIND) not in KINDS:
            yield f"'{KIND}' must be one of {', '.join(KINDS)}"

    def _broken_unit(self, name: str, type_: TensorType) -> Iterator[str]:
        if not isinstance(self.attributes[name], ir.UnitAttr):
            yield f"'{name}' must be a unit attribute"
        if type_.rank not in (None, 2):
            yield f"is '{name}' but of rank {type_.rank}; only a matrix can be"


# ext makes a property for the attribute `name`, which would hide the operation's own name.
del WeightOp.name


def weight(
    name: str, type_: TensorType, *, transposed: bool = False, contiguous: bool = False
) -> ir.OpResult:
    """Create a reference at the current insertion point.

    Args:
        name: the tensor's name in the weight source.
        type_: type of the result, after the transposition.
        transposed: read the named matrix with its dimensions exchanged.
        contiguous: make the result contiguous.
    """
    op = WeightOp(type_.build(), ir.StringAttr.get(name))
    for unit, wanted in (("transposed", transposed), ("contiguous", contiguous)):
        if wanted:
            op.attributes[unit] = ir.UnitAttr.get()
    return op.results[0]


def reoriented(
    op: ir.Operation, type_: TensorType, *, transposed: bool, contiguous: bool = False
) -> ir.Value:
    """Create a reference to the tensor of another reference, with its discardable attributes.

    Args:
        op: a ``sparse_gemm.weight``.
        type_: type of the result.
        transposed: as in `weight`.
        contiguous: as in `weight`.
    """
    made = weight(text_of(op, "name"), type_, transposed=transposed, contiguous=contiguous)
    for name in (KIND, PATTERN, "sparse_gemm.dense"):
        if name in op.attributes:
            made.owner.attributes[name] = op.attributes[name]
    return made
