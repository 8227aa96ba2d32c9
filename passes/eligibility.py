"""Whether a single linear layer may become sparse, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.linear import broken_type_rules
from sparseflow.dialect.matchers import WeightRef, is_none
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, tensor_type
from sparseflow.dialect.weight import KIND
from sparseflow.passes.weight_views import weight_view


@dataclass(frozen=True)
class Limits:
    """What a caller rules out.

    Attributes:
        min_n: fewest out features.
        min_k: fewest in features.
        skip: patterns (fnmatch) of layer names.
    """

    min_n: int
    min_k: int
    skip: Sequence[str]


def reason_to_stay(layer: ir.Operation, ref: WeightRef | None, limits: Limits) -> str | None:
    """Why a ``torch.aten.linear`` stays dense, whatever else reads its weight; None if it needn't."""
    if "sparse_gemm.reason" in layer.attributes:
        return text_of(layer, "sparse_gemm.reason")
    if ref is None:
        return _why_no_reference(layer.operands[1])
    return next(_reasons(layer, ref, limits), None)


def cast_reason(name: str) -> str:
    """What a report says of a layer that would be eligible if it didn't convert its weight."""
    return f"its weight '{name}' is cast in each call, as under autocast"


def _no_weight(name: str, kind: str) -> str:
    return f"its matrix '{name}' is a {kind}, no weight"


def _why_no_reference(weight: ir.Value) -> str:
    view = weight_view(weight)
    if view is None:
        return "its weight is computed at run time"
    if view.kind is not None:
        return _no_weight(view.name, view.kind)
    if view.part:
        whole = "the matrix" if view.rank == 2 else f"the parameter of rank {view.rank}"
        return f"it multiplies by a part of {whole} '{view.name}'"
    return (
        cast_reason(view.name) if view.cast else f"its weight is a view of '{view.name}', made in each call"
    )


def _reasons(layer: ir.Operation, ref: WeightRef, limits: Limits) -> Iterator[str]:
    if KIND in ref.op.attributes:
        yield _no_weight(ref.names[0], text_of(ref.op, KIND))
    for pattern in limits.skip:
        if any(fnmatchcase(name, pattern) for name in ref.layers):
            yield f"skipped by the pattern '{pattern}'"
    weight = tensor_type(ref.op.results[0])
    if weight is None or weight.shape is None or None in weight.shape:
        yield "the shape of its weight isn't known when compiling"
        return
    if len(weight.shape) != 2:
        yield f"its weight has rank {len(weight.shape)}; only matrices can be packed"
        return
    yield from _size_reasons(weight.shape, limits)
    if weight.dtype not in SPARSE_DTYPES:
        yield f"its weight is {weight.dtype}; the sparse kernels multiply {', '.join(SPARSE_DTYPES)}"
    yield from _type_reasons(layer)


def _size_reasons(shape: tuple[int | None, ...], limits: Limits) -> Iterator[str]:
    for letter, size, least, name in zip(
        "NK", shape, (limits.min_n, limits.min_k), ("min-n", "min-k"), strict=True
    ):
        if size is not None and size < least:
            yield f"{letter} = {size} is below {name} = {least}"


def _type_reasons(layer: ir.Operation) -> Iterator[str]:
    values = {"x": layer.operands[0], "weight": layer.operands[1], "result": layer.results[0]}
    if not is_none(layer.operands[2]):
        values["bias"] = layer.operands[2]
    types: dict[str, TensorType] = {}
    for role, value in values.items():
        type_ = tensor_type(value)
        if type_ is None:
            yield f"its {role} is {value.type}, no plain value tensor"
            return
        types[role] = type_
    for rule in broken_type_rules(types):
        yield f"a sparse layer {rule}"
