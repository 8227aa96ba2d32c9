"""Trace values to weight references through views, casts and slices, and find products that read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import defined_by, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.dialect.weight import KIND

_TRANSPOSES = {
    "adjoint",
    "mH",
    "mT",
    "matrix_H",
    "numpy_T",
    "permute",
    "swapaxes",
    "swapdims",
    "t",
    "transpose",
}
_SHAPES = {"flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"}
_COPIES = {"alias", "broadcast_to", "clone", "contiguous", "detach", "expand", "expand_as"}
_VIEWS = _TRANSPOSES | _SHAPES | _COPIES | {"_reshape_alias", "_unsafe_view", "moveaxis", "movedim"}
_CASTS = {"to", "type_as", "_to_copy"}
_SPLITS = {"chunk", "split", "split_with_sizes"}
_PARTS = (
    {"diagonal", "index", "index_select", "narrow", "select", "slice", "tensor_split", "unbind"}
    | _SPLITS
    | {f"unsafe_{name}" for name in _SPLITS}
)

_CONVOLUTIONS = {f"{name}{dims}d" for name in ("conv", "conv_transpose") for dims in (1, 2, 3)}
_CONVOLUTIONS |= {"convolution", "_convolution", "conv_tbc"}
_RECURRENT = {"gru", "lstm", "rnn_relu", "rnn_tanh"}
_CELLS = {f"{name}_cell" for name in _RECURRENT}
_PAIRS = {"inner", "linalg_matmul", "linalg_multi_dot", "matmul", "mv", "tensordot"}
_FACTORS = {
    **dict.fromkeys(("addbmm", "addmm", "addmv", "baddbmm"), (1, 2)),
    **dict.fromkeys(_CONVOLUTIONS | {"linear", "einsum"}, (1,)),
    **dict.fromkeys(_RECURRENT | {"bilinear"}, (2,)),
    **dict.fromkeys(_CELLS, (2, 3)),
}
"""The operands that may be a product's weights, where those are others than the first two."""
_SOME_MM = re.compile(r"(\w*_)?(b|add|baddb)?mm(_\w*)?")
"""Products by their name, such as `_grouped_mm`: some are operators of libraries."""


def base_name(op: ir.Operation) -> str:
    """Return an operator's base name: ``transpose`` for ``torch.aten.transpose.int``, registered or not."""
    name = text_of(op, "name") if op.name == "torch.operator" else op.name
    parts = name.split(".")
    return parts[2] if len(parts) > 2 else ""


def is_convolution(op: ir.Operation) -> bool:
    """Return whether an operation is a convolution, of any kind."""
    return base_name(op) in _CONVOLUTIONS


def is_recurrent(op: ir.Operation) -> bool:
    """Return whether an operation is a recurrent layer or a step of one."""
    return base_name(op) in _RECURRENT | _CELLS


@dataclass(frozen=True)
class WeightView:
    """A value as a view of a referenced tensor.

    Attributes:
        op: the ``sparse_gemm.weight`` or ``sparse_gemm.merged_weight``.
        part: whether it covers only a part.
        cast: whether it is converted to another dtype.
    """

    op: ir.Operation
    part: bool = False
    cast: bool = False

    @property
    def name(self) -> str:
        """Name of the tensor in the weight source."""
        ref = weight_ref(self.op.results[0])
        assert ref is not None, "only references are viewed"
        return ref.names[0]

    @property
    def rank(self) -> int:
        """Rank of the whole tensor; 0 if unknown."""
        type_ = tensor_type(self.op.results[0])
        return (type_ and type_.rank) or 0

    @property
    def kind(self) -> str | None:
        """What the tensor is, if not a parameter."""
        return text_of(self.op, KIND) if KIND in self.op.attributes else None


def weight_view(value: ir.Value) -> WeightView | None:
    """Return the weight that a value is a view of, or None if it is computed or an input."""
    part = cast = False
    while (op := defined_by(value, "sparse_gemm.weight", "sparse_gemm.merged_weight")) is None:
        if isinstance(value.owner, ir.Block):
            return None
        viewed = value.owner.operation
        name, unpacked = base_name(viewed), viewed.name == "torch.prim.ListUnpack"
        if not unpacked and name not in _VIEWS | _CASTS | _PARTS:
            return None
        part, cast = part or name in _PARTS, cast or name in _CASTS
        value = viewed.operands[0]
    return WeightView(op, part, cast)


def multiplied_weights(op: ir.Operation) -> list[WeightView]:
    """Return the parameters of rank ≥ 2 that an operation multiplies by; empty if it isn't a product.

    For a linear layer this is its weight, whatever its rank and kind.
    """
    found = [view for value in _factors(op) if (view := weight_view(value)) is not None]
    if op.name == "torch.aten.linear":
        return found
    return [view for view in found if view.rank > 1 and view.kind is None]


def _factors(op: ir.Operation) -> Iterator[ir.Value]:
    name = base_name(op)
    if name not in _FACTORS and name not in _PAIRS and not _SOME_MM.fullmatch(name):
        return
    operands = list(op.operands)
    places = _FACTORS.get(name, (0, 1))
    if name in _RECURRENT and text_of(op, "name").endswith(".data"):
        places = (3,)  # of a packed sequence, whose sizes come first
    for place in places:
        value = operands[place] if place < len(operands) else None
        if value is None:
            continue
        listed = defined_by(value, "torch.prim.ListConstruct")
        yield from [value] if listed is None else listed.operands
