"""Find the weights of layers under autocast, which multiply by a cast weight reference."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.passes.build import explain
from sparseflow.passes.eligibility import cast_reason, reason_to_stay
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.products import uncast


def cast_weights(module: ir.Module, limits: MatchSparseLinear) -> dict[str, bool]:
    """Return the names of weights that linear layers read through a cast, and whether transposed.

    They are pruned with the others: whether autocast is on changes how a model computes, not what it is. The
    layers stay dense, with a reason.

    Args:
        module: after `match-sparse-linear`.
        limits: the instance of that pass that ran.
    """
    found: dict[str, bool] = {}
    for op in operations(module, {"torch.aten.linear"}):
        value = uncast(op.operands[1])
        ref = None if value == op.operands[1] else weight_ref(value)
        if ref is None or ref.op.name != "sparse_gemm.weight" or "sparse_gemm.dense" in ref.op.attributes:
            continue
        del op.attributes["sparse_gemm.reason"]
        reason = reason_to_stay(op, ref, limits.limits)
        explain(op, reason or cast_reason(ref.names[0]))
        if reason is None:
            found[ref.names[0]] = ref.transposed[0]
    return found
