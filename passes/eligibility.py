"""Decide whether a single linear layer may become sparse, with a reason if not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.linear import broken_type_rules
from sparseflow.dialect.matchers import WeightRef, is_none, operations, users, weight_ref
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, tensor_type
from sparseflow.dialect.weight import KIND
from sparseflow.passes.products import uncast
from sparseflow.passes.weight_views import weight_view


@dataclass(frozen=True)
class Limits:
    """Limits on the layers that become sparse.

    Attributes:
        min_n: fewest out features.
        min_k: fewest in features.
        skip: patterns (fnmatch) of layer names.
    """

    min_n: int
    min_k: int
    skip: Sequence[str]


def reason_to_stay(layer: ir.Operation, ref: WeightRef | None, limits: Limits) -> str | None:
    """Return why a ``torch.aten.linear`` itself must stay dense, or None."""
    if "sparse_gemm.reason" in layer.attributes:
        return text_of(layer, "sparse_gemm.reason")
    if ref is not None:
        return next(chain(_weight_reasons(ref, limits), _type_reasons(layer)), None)
    cast = cast_ref(layer)
    if cast is None:
        return _why_no_reference(layer.operands[1])
    return next(chain(_weight_reasons(cast, limits), _type_reasons(layer)), cast_reason(cast.names[0]))


def cast_ref(layer: ir.Operation) -> WeightRef | None:
    """Return the weight that a layer reads cast to another dtype; None if it must stay dense anyway."""
    value = uncast(layer.operands[1])
    ref = None if value == layer.operands[1] else weight_ref(value)
    if ref is None or ref.op.name != "sparse_gemm.weight" or "sparse_gemm.dense" in ref.op.attributes:
        return None
    return ref


def eligible_weights(module: ir.Module, limits: Limits) -> list[str]:
    """Return the parameters whose own properties allow them to be sparse, whatever reads them.

    Parameters of a ``sparse_gemm.contextual_mlp`` or ``column_linear``, which have their own rules, are left
    out.
    """
    found: dict[str, bool] = {}
    for op in operations(module, {"sparse_gemm.weight"}):
        ref = weight_ref(op.results[0])
        assert ref is not None, "operations() selected weights"
        own = ("sparse_gemm.contextual_mlp", "sparse_gemm.column_linear")
        contextual = any(user.name in own for user in users(op.results[0]))
        eligible = not contextual and next(_weight_reasons(ref, limits), None) is None
        found[ref.names[0]] = eligible and found.get(ref.names[0], True)
    return [name for name, eligible in found.items() if eligible]


def cast_reason(name: str) -> str:
    """Return the reason for a layer that would be eligible but for converting its weight's dtype."""
    return f"its weight '{name}' is cast in each call, as under autocast"


def _no_weight(name: str, kind: str) -> str:
    return f"its matrix '{name}' is a {kind}, not a weight"


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


def _weight_reasons(ref: WeightRef, limits: Limits) -> Iterator[str]:
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
            yield f"its {role} is {value.type}, not a plain value tensor"
            return
        types[role] = type_
    for rule in broken_type_rules(types):
        yield f"a sparse layer {rule}"
