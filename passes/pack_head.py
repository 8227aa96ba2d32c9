"""The pass ``pack-head``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import HEAD, linear
from sparseflow.dialect.matchers import is_none, operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.eligibility import Limits, reason_to_stay
from sparseflow.passes.ir_builder import before, explain, replace
from sparseflow.passes.option_text import head_format
from sparseflow.runtime.formats import find

_REASON = "sparse_gemm.reason"


@dataclass(frozen=True)
class PackHead(Pass):
    """Store the weight of a model's head in a format, whatever else reads that weight densely.

    Requires: layers have their formats and gates (`choose-format`, `fuse-gate`); it is known why the head is
    dense (`match-sparse-linear`).

    Ensures: each linear layer over the weight is a `sparse_gemm.linear` of the format, with the attribute
    `sparse_gemm.head`: its packed weight is a copy, so that an embedding tied to it keeps its own. A layer
    that can't have the format stays as it is, with the reason.
    """

    name: ClassVar[str] = "pack-head"
    weight: str = option("", "name of the head's weight", str)
    format: str = option("", "how it is stored, such as 2:4 or fp8", head_format)

    def run(self, module: ir.Module) -> None:
        """Visit dense layers over the weight, and sparse ones that the model's pruning made of it."""
        if not self.weight or not self.format:
            raise PassError(
                "pass 'pack-head'",
                "has no weight or format",
                "Give both: pack-head{weight=lm_head.weight format=fp8}.",
            )
        for op in operations(module, {"torch.aten.linear", "sparse_gemm.linear"}):
            ref = weight_ref(op.operands[1])
            if ref is not None and ref.names == (self.weight,):
                self._pack(op)

    def _pack(self, op: ir.Operation) -> None:
        reason = self._why_not(op)
        if reason:
            explain(op, f"not in {self.format}: {reason}")
        elif op.name == "sparse_gemm.linear":
            op.attributes["format"] = ir.StringAttr.get(self.format)
            op.attributes[HEAD] = ir.UnitAttr.get()
        else:
            x, weight, bias = op.operands
            given = None if is_none(bias) else bias
            with before(op):
                layer = linear(x, weight, given, result=op.results[0].type, format=self.format)
                layer.attributes[HEAD] = ir.UnitAttr.get()
            replace(op, layer.results[0])

    def _why_not(self, op: ir.Operation) -> str | None:
        type_ = tensor_type(op.operands[1])
        n, k = (type_.shape or (None, None)) if type_ is not None else (None, None)
        if type_ is None or type_.dtype is None or n is None or k is None:
            return "the type of its weight isn't known when compiling"
        if op.name == "torch.aten.linear":
            if _REASON in op.attributes:  # that it is not to be pruned
                del op.attributes[_REASON]
            reason = reason_to_stay(op, weight_ref(op.operands[1]), Limits(1, 1, ()))
            if reason is not None:
                return reason
        return find(self.format).why_not(n, k, type_.dtype)
