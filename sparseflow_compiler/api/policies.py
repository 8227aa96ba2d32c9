"""The measured policies of a module's sparse layers."""

from __future__ import annotations

from torch_mlir import ir

from sparseflow.api.decisions import TORCH_DTYPES
from sparseflow.api.progress import Step
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.apply_policy import policy_key
from sparseflow.runtime.dispatch import Policy


def measured_policies(module: ir.Module, step: Step) -> dict[str, Policy]:
    """The policy of every dtype and shape among the sparse layers; measures what the machine's table lacks.

    Returns:
        Policies by `policy_key`.
    """
    from sparseflow.runtime.dispatch import calibrate

    shapes: dict[str, list[tuple[int, int]]] = {}
    for op in operations(module, ("sparse_gemm.linear",)):
        type_ = tensor_type(op.operands[1])
        if type_ is not None and type_.shape is not None and type_.dtype in TORCH_DTYPES:
            n, k = type_.shape
            if n is not None and k is not None:
                shapes.setdefault(type_.dtype, []).append((n, k))
    found = {}
    for dtype, pairs in shapes.items():
        wanted = list(dict.fromkeys(pairs))
        policies = calibrate(wanted, TORCH_DTYPES[dtype], progress=step)
        found.update({policy_key(dtype, n, k): policies[n, k] for n, k in wanted})
    return found
