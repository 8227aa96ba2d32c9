"""The pass ``merge-projections``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import GATES
from sparseflow.dialect.matchers import WeightRef, is_none, operations, weight_ref
from sparseflow.dialect.merged_weight import merged_weight
from sparseflow.dialect.sparse_layers import LAYERS, epilogue_of, layer_like, layer_view
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.dialect.weight import KIND
from sparseflow.passes.base import Pass, option
from sparseflow.passes.ir_builder import before, none, replace, slice_last, torch_op
from sparseflow.passes.weight_uses import WeightUses

_DENSE = "torch.aten.linear"


@dataclass(frozen=True)
class _Projection:
    """A layer that may be merged with others."""

    op: ir.Operation
    weight: WeightRef
    weight_type: TensorType
    bias: WeightRef | None

    @property
    def rows(self) -> int:
        """N."""
        n = self.weight_type.dim(0)
        assert n is not None, "_projection checked it"
        return n


@dataclass(frozen=True)
class MergeProjections(Pass):
    """Merge layers that read the same value, such as q, k and v, into one and slice its result.

    Requires: layers in the form of `canonicalize-linear`, sparse or not.

    Ensures: layers of one block over the same input, of the same K, dtype, epilogue, policy and format, or
    of the same threshold and limit of rows, all with a bias or all without, are one layer over a
    `sparse_gemm.merged_weight` whose `names` and `sizes` keep the parts recoverable; each result is a
    `torch.aten.slice.Tensor` of the last dimension.

    Left alone: layers with a residual, a gate, a computed bias, a weight or bias that something else reads
    too or that is a buffer or constant, or an attribute `sparse_gemm.reason`; and whatever is merged already.
    """

    name: ClassVar[str] = "merge-projections"
    max_parts: int = option(8, "merge at most this many layers into one")

    def run(self, module: ir.Module) -> None:
        """Form all groups, then merge each; merging one doesn't affect the others."""
        uses = WeightUses(module)
        groups: dict[tuple[object, ...], list[_Projection]] = defaultdict(list)
        for op in operations(module, LAYERS | {_DENSE}):
            part = _projection(op, uses)
            if part is not None:
                groups[_key(part)].append(part)
        for parts in groups.values():
            for start in range(0, len(parts), max(self.max_parts, 1)):
                _merge(parts[start : start + self.max_parts])


def _projection(op: ir.Operation, uses: WeightUses) -> _Projection | None:
    weight, bias = weight_ref(op.operands[1]), _bias(op)
    type_, result = tensor_type(op.operands[1]), tensor_type(op.results[0])
    if weight is None or type_ is None or type_.rank != 2 or None in (*(type_.shape or ()), type_.dtype):
        return None
    if result is None or not result.shape or "sparse_gemm.reason" in op.attributes:
        return None
    bias_ref = None if bias is None else weight_ref(bias)
    refs = [weight] if bias is None else [weight, bias_ref]
    if (
        not all(ref is not None and _only_reader(ref, uses) for ref in refs)
        or _has_residual(op)
        or _is_gated(op)
    ):
        return None
    return _Projection(op, weight, type_, bias_ref)


def _bias(op: ir.Operation) -> ir.Value | None:
    if op.name in LAYERS:
        return layer_view(op).bias
    return None if is_none(op.operands[2]) else op.operands[2]


def _has_residual(op: ir.Operation) -> bool:
    return op.name in LAYERS and layer_view(op).residual is not None


def _is_gated(op: ir.Operation) -> bool:
    """Return whether the halves of the product are a gate's factors already, not layers' results."""
    return op.name in LAYERS and epilogue_of(op) in GATES


def _only_reader(ref: WeightRef, uses: WeightUses) -> bool:
    """Return whether a reference names a single parameter that is read once in the whole module."""
    return (
        ref.op.name == "sparse_gemm.weight"
        and KIND not in ref.op.attributes
        and len(uses.of(ref.names[0])) == 1
    )


def _key(part: _Projection) -> tuple[object, ...]:
    op = part.op
    alike = ("epilogue", "policy", "format", "threshold", "m_max")
    attributes = tuple(str(op.attributes[name]) for name in alike if name in op.attributes)
    k, dtype = part.weight_type.dim(1), part.weight_type.dtype
    return op.name, op.operands[0], op.block, k, dtype, part.bias is None, attributes


def _merge(parts: Sequence[_Projection]) -> None:
    if len(parts) < 2:
        return
    # Before the first part everything that any part reads is known: x, and weights by reference.
    with before(parts[0].op):
        whole = _whole(parts)
        ends = accumulate(part.rows for part in parts)
        pieces = [_slice(whole, end - part.rows, end, part.op) for part, end in zip(parts, ends, strict=True)]
    for part, piece in zip(parts, pieces, strict=True):
        replace(part.op, piece)


def _whole(parts: Sequence[_Projection]) -> ir.Value:
    first = parts[0]
    x, n = first.op.operands[0], sum(part.rows for part in parts)
    weight = _concatenate([part.weight for part in parts], parts, first.weight_type.shape or ())
    biases = [part.bias for part in parts if part.bias is not None]
    bias = _concatenate(biases, parts, (n,)) if biases else None
    part_type = tensor_type(first.op.results[0])
    assert part_type is not None, "_projection checked it"
    result = part_type.with_last(n).build()
    if first.op.name == _DENSE:
        return torch_op(_DENSE, [x, weight, none() if bias is None else bias], result)
    epilogue = epilogue_of(first.op)
    return layer_like(first.op, x, weight, bias, result=result, epilogue=epilogue).results[0]


def _concatenate(
    refs: Sequence[WeightRef], parts: Sequence[_Projection], shape: tuple[int | None, ...]
) -> ir.Value:
    sizes = [part.rows for part in parts]
    type_ = TensorType((sum(sizes), *shape[1:]), parts[0].weight_type.dtype)
    names, transposed = [ref.names[0] for ref in refs], [ref.transposed[0] for ref in refs]
    return merged_weight(names, type_, transposed=transposed, sizes=sizes)


def _slice(value: ir.Value, start: int, end: int, part: ir.Operation) -> ir.Value:
    with part.location:
        return slice_last(value, start, end, part.results[0].type)
