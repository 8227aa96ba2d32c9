"""The pass ``canonicalize-linear``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.matchers import defined_by, is_none, operations, weight_ref
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.dialect.weight import reoriented
from sparseflow.passes.base import Pass
from sparseflow.passes.ir_builder import before, none, replace, torch_op
from sparseflow.passes.products import Product, is_one, read_product
from sparseflow.passes.views import drop_views_of, keeps_rows, restore_rows

_PRODUCTS = frozenset({"torch.aten.linear", "torch.aten.mm", "torch.aten.matmul", "torch.aten.addmm"})


@dataclass(frozen=True)
class CanonicalizeLinear(Pass):
    """Bring products with a weight into one form: `torch.aten.linear(x, W, bias)`.

    Requires: weights by reference (`sparse_gemm.weight`).

    Ensures: `mm`, `matmul` and `addmm` (alpha and beta 1) of an input with a weight of rank 2 are
    `torch.aten.linear`. Transposes of the weight are gone: where `W` is the stored tensor transposed, as
    with GPT-2's Conv1D, the reference is marked `transposed`. Views that only flatten the leading
    dimensions of the input are moved behind the layer, or dropped where shapes prove that another view
    undoes them. An addition of a parameter of shape [N] to a layer without bias becomes its bias.

    Left alone: everything else; computed weights, products with the weight on the left, `addmm` with other
    factors or with a bias that broadcasts.
    """

    name: ClassVar[str] = "canonicalize-linear"

    def run(self, module: ir.Module) -> None:
        """Rewrite products, then absorb biases, which are only matched on canonical layers."""
        for op in operations(module, _PRODUCTS):
            product = read_product(op)
            if product is None or _is_canonical(op, product):
                continue
            if (n := _out_features(op, product)) is not None:
                _canonicalize(op, product, n)
        for op in operations(module, {"torch.aten.add.Tensor"}):
            _absorb_bias(op)


def _out_features(op: ir.Operation, product: Product) -> int | None:
    """Return N if the operation has a single dtype and the shape that linear would return, else None."""
    x, weight, result = (
        tensor_type(value) for value in (product.x, product.weight.results[0], op.results[0])
    )
    if x is None or weight is None or result is None or x.shape is None:
        return None
    n = weight.dim(1 if product.transposed else 0)
    if n is None or result != x.with_last(n) or weight.dtype != x.dtype:
        return None
    return n


def _is_canonical(op: ir.Operation, product: Product) -> bool:
    return (
        op.name == "torch.aten.linear"
        and op.operands[1] == product.weight.results[0]
        and keeps_rows(product.x) is None
    )


def _canonicalize(op: ir.Operation, product: Product, n: int) -> None:
    x = _through_flattening(product.x)
    type_ = tensor_type(x)
    assert type_ is not None, "views of plain tensors are of plain tensors"
    with before(op):
        bias = none() if product.bias is None else product.bias
        layer = torch_op("torch.aten.linear", [x, _oriented(product), bias], type_.with_last(n).build())
        result = layer if x == product.x else restore_rows(layer, n, op.results[0].type)
    if "sparse_gemm.reason" in op.attributes:
        layer.owner.attributes["sparse_gemm.reason"] = op.attributes["sparse_gemm.reason"]
    replace(op, result)
    if result != layer:
        drop_views_of(layer, result)


def _through_flattening(x: ir.Value) -> ir.Value:
    """Return the input with views that only flatten leading dimensions stripped."""
    while (view := keeps_rows(x)) is not None:
        x = view
    return x


def _oriented(product: Product) -> ir.Value:
    """Return the weight as ``[N, K]``, marked as transposed if it is stored as ``[K, N]``."""
    stored = product.weight.results[0]
    if not product.transposed:
        return stored
    type_ = tensor_type(stored)
    assert type_ is not None, "a product's weight is a matrix"
    assert type_.shape is not None, "a product's weight is a matrix"
    flipped = TensorType(type_.shape[::-1], type_.dtype)
    return reoriented(product.weight, flipped, transposed="transposed" not in product.weight.attributes)


def _absorb_bias(add: ir.Operation) -> None:
    a, b, alpha = add.operands
    for layer, bias in ((a, b), (b, a)):
        op = defined_by(layer, "torch.aten.linear")
        if op is not None and is_one(alpha) and _can_absorb(op, bias, add.results[0]):
            with before(add):
                operands = [op.operands[0], op.operands[1], bias]
                replace(add, torch_op("torch.aten.linear", operands, add.results[0].type))
            return


def _can_absorb(layer: ir.Operation, bias: ir.Value, result: ir.Value) -> bool:
    type_, bias_type = tensor_type(result), tensor_type(bias)
    if type_ is None or bias_type is None or not type_.shape or weight_ref(bias) is None:
        return False
    return (
        is_none(layer.operands[2])
        and "sparse_gemm.reason" not in layer.attributes
        and len(list(layer.results[0].uses)) == 1
        and layer.results[0].type == result.type
        and bias_type.shape == (type_.dim(-1),)
        and bias_type.dtype == type_.dtype
    )
