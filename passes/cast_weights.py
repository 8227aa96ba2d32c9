"""Find the weights of layers under autocast, which multiply by a cast weight reference."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import operations
from sparseflow.passes.eligibility import cast_reason, cast_ref


def cast_weights(module: ir.Module) -> dict[str, bool]:
    """Return the weights of layers that are dense only because they read them cast, and whether transposed.

    They are pruned with the others: whether autocast is on changes how a model computes, not what it is.

    Args:
        module: after `match-sparse-linear`, which wrote down why each layer stays dense.
    """
    found: dict[str, bool] = {}
    for op in operations(module, {"torch.aten.linear"}):
        ref = cast_ref(op)
        if ref is not None and text_of(op, "sparse_gemm.reason") == cast_reason(ref.names[0]):
            found[ref.names[0]] = ref.transposed[0]
    return found
