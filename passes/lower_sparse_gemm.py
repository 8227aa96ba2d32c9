"""The pass ``lower-sparse-gemm``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import view_as
from sparseflow.dialect.linear import KEEPS_DENSE, LinearOp, layer_format
from sparseflow.dialect.matchers import WeightRef, operations, weight_ref
from sparseflow.dialect.packed_weight import WeightForms, packed_weight
from sparseflow.dialect.pruned_weight import pruned_weight
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass, refuse
from sparseflow.passes.ir_builder import (
    before,
    constant_int,
    constant_str,
    int_list,
    none,
    replace,
    runtime_call,
)
from sparseflow.runtime.dispatch.policy import Policy


@dataclass(frozen=True)
class LowerSparseGemm(Pass):
    """Turn sparse layers into calls of the runtime's operators.

    Requires: the weight of each `sparse_gemm.linear` is a `sparse_gemm.weight` or `merged_weight` of
    static shape.

    Ensures: no `sparse_gemm.linear` is left. Each is a call of its format's operator, such as
    `torch.operator "torch.sparseflow.linear"` of `2:4`, over the parts of a `sparse_gemm.packed_weight`;
    layers of one function that share a weight and format share its packed form. Unused references are gone.
    A layer with `keeps_dense` also reads the `sparse_gemm.pruned_weight`, the dense form that is kept beside
    the packed one.
    """

    name: ClassVar[str] = "lower-sparse-gemm"

    def run(self, module: ir.Module) -> None:
        """Group the layers by weight, then lower each group over one packed weight."""
        groups: dict[tuple[object, ...], list[ir.Operation]] = defaultdict(list)
        for op in operations(module, {"sparse_gemm.linear"}):
            ref = _packable(op).ref
            key = (ref.names, ref.transposed, layer_format(op).name, _function_body(op))
            groups[key].append(op)
        for layers in groups.values():
            _lower(layers)


@dataclass(frozen=True)
class _Weight:
    """A weight that can be packed: its reference and its static type."""

    ref: WeightRef
    n: int
    k: int
    dtype: str


def _packable(layer: ir.Operation) -> _Weight:
    ref, type_ = weight_ref(layer.operands[1]), tensor_type(layer.operands[1])
    remedy = "Keep such a layer as torch.aten.linear."
    if ref is None:
        refuse(layer, "has a weight that is computed at run time; only references can be packed", remedy)
    n, k, dtype = (type_.dim(0), type_.dim(1), type_.dtype) if type_ is not None else (None, None, None)
    if n is None or k is None or dtype is None:
        refuse(layer, f"has a weight of type '{layer.operands[1].type}'; packing needs its shape", remedy)
    return _Weight(ref, n, k, dtype)


def _function_body(op: ir.Operation) -> ir.Block:
    """Return the outermost block of the function around an operation."""
    while op.parent is not None and op.parent.operation.name != "func.func":
        op = op.parent.operation
    return op.block


def _lower(layers: Sequence[ir.Operation]) -> None:
    first = layers[0]
    # Program order makes the first of one block dominate the others; across blocks only the entry does.
    together = all(layer.block == first.block for layer in layers)
    anchor = first if together else _function_body(first).operations[0].operation
    kept = [layer for layer in layers if KEEPS_DENSE in layer.attributes]
    with before(anchor):
        packed = packed_weight(**_reference(first))
        dense = pruned_weight(**_reference(first)) if kept else None
    for layer in layers:
        with before(layer):
            call = _call(layer, packed, dense if layer in kept else None)
        replace(layer, call)


def _reference(layer: ir.Operation) -> WeightForms:
    """Return the arguments that refer to a layer's weight, for `packed_weight` and `pruned_weight`."""
    weight = _packable(layer)
    return {
        "names": weight.ref.names,
        "shape": (weight.n, weight.k),
        "dtype": weight.dtype,
        "format": layer_format(layer).name,
        "transposed": weight.ref.transposed,
        "sizes": weight.ref.sizes,
    }


def _policy(layer: ir.Operation) -> Policy:
    return Policy.parse(ir.StringAttr(layer.attributes["policy"]).value)


def _call(layer: ir.Operation, packed: tuple[ir.Value, ...], dense: ir.Value | None) -> ir.Value:
    view = view_as(layer, LinearOp)
    operands = [
        view.x,
        *packed,
        none() if view.bias is None else view.bias,
        none() if view.residual is None else view.residual,
        constant_int(_packable(layer).k),
        constant_str(view.epilogue.value),
        int_list(_policy(layer).to_ints()),
        none() if dense is None else dense,
    ]
    return runtime_call(layer_format(layer).operator, operands, layer.results[0].type)
