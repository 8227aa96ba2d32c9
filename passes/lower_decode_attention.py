"""The pass ``lower-decode-attention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import number_of, view_as
from sparseflow.dialect.decode_attention import DecodeAttentionOp, has_few_queries
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass
from sparseflow.passes.ir_builder import before, constant_float, constant_int, none, replace, runtime_call


@dataclass(frozen=True)
class LowerDecodeAttention(Pass):
    """Turn attention over caches into calls of the runtime's operators.

    Requires: nothing.

    Ensures: no `sparse_gemm.decode_attention` is left. Each is a
    `torch.operator "torch.sparseflow.decode_attention"(q, k, v, position, keep, scale, window)`, or of more
    than 16 queries or of a number that isn't known
    `torch.operator "torch.sparseflow.prompt_attention"(q, k, v, position, scale, window)`.
    """

    name: ClassVar[str] = "lower-decode-attention"

    def run(self, module: ir.Module) -> None:
        """Lower each by itself."""
        for op in operations(module, {"sparse_gemm.decode_attention"}):
            tensors = view_as(op, DecodeAttentionOp).tensors()
            type_ = tensor_type(tensors["q"])
            few = type_ is None or has_few_queries(type_)
            roles = ("q", "k", "v", "position", "keep") if few else ("q", "k", "v", "position")
            with before(op):
                operands = [tensors[role] if role in tensors else none() for role in roles]
                numbers = [constant_float(number_of(op, "scale")), constant_int(int(number_of(op, "window")))]
                name = "decode_attention" if few else "prompt_attention"
                call = runtime_call(name, [*operands, *numbers], op.results[0].type)
            replace(op, call)
