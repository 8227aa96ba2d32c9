"""Which layers' results in fp8 are scaled by the kernel that reads them.

cuSPARSELt's products in fp8 are scaled after it, by operators that inductor fuses with what reads the result:
where that goes over the elements anyway, scaling costs nothing; before attention it is a pass of its own.
"""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.linear import GATES, product_dtype
from sparseflow.dialect.matchers import users
from sparseflow.passes.sizes import BROADCASTING, ELEMENTWISE
from sparseflow.passes.views import VIEWS

FP8 = "f8E4M3FN"

_FUSED = frozenset(f"torch.aten.{name}" for name in f"{ELEMENTWISE} {BROADCASTING}".split())
_LOOKED_THROUGH = frozenset(
    (*VIEWS, "torch.aten.slice.Tensor", "torch.aten.unsqueeze", "torch.aten.flatten.using_ints")
)
_SIZES = frozenset(("torch.aten.size.int", "torch.aten.dim"))


def scaled_by_its_readers(layer: ir.Operation) -> bool:
    """Return whether only kernels of inductor that go over its elements read a sparse layer's result.

    A gate is best applied in a product's end, which then writes half as much.
    """
    return text_of(layer, "epilogue") not in GATES and _only_fused(layer.results[0])


def _only_fused(value: ir.Value) -> bool:
    readers = [op for op in users(value) if op.name not in _SIZES]
    return bool(readers) and all(_fuses(op, value) for op in readers)


def _fuses(op: ir.Operation, value: ir.Value) -> bool:
    if op.name in _LOOKED_THROUGH:
        return _only_fused(op.results[0])
    if op.name == "sparse_gemm.linear":  # which quantises its rows; a residual it may read in a product's end
        return op.operands[0] == value and product_dtype(op) == FP8
    return op.name in _FUSED
