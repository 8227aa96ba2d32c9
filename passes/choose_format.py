"""The pass ``choose-format``."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import FORMAT_REFUSED, layer_format
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass, option
from sparseflow.passes.option_text import format_name
from sparseflow.runtime.formats import find


@dataclass(frozen=True)
class ChooseFormat(Pass):
    """Give sparse layers a weight format, or record why they can't have it.

    Requires: layers are merged (`merge-projections`) and have their activations (`fuse-epilogue`); no policy
    yet (`apply-policy` looks it up by what a layer multiplies).

    Ensures: each `sparse_gemm.linear` over a weight by reference that the format is eligible for has that
    `format`. Each other one keeps its own and has `sparse_gemm.format_refused`, the reason. `2:4`, which
    stands for the exact formats, changes no layer in the format of another pattern.
    """

    name: ClassVar[str] = "choose-format"
    format: str = option("2:4", "how weights are stored and multiplied, such as 2:4-fp8", format_name)
    skip: tuple[str, ...] = option(
        (), "leave layers whose name matches one of these patterns (fnmatch) alone"
    )

    def run(self, module: ir.Module) -> None:
        """Decide for each layer by itself."""
        for op in operations(module, {"sparse_gemm.linear"}):
            if self.format == "2:4" and layer_format(op).pattern != "2:4":
                continue  # it is the exact format of its weight's pattern, which nobody refused
            reason = self._reason(op)
            if reason is None:
                op.attributes["format"] = ir.StringAttr.get(self.format)
            else:
                op.attributes[FORMAT_REFUSED] = ir.StringAttr.get(reason)

    def _reason(self, layer: ir.Operation) -> str | None:
        """Return why a layer can't have the format, or None."""
        ref, type_ = weight_ref(layer.operands[1]), tensor_type(layer.operands[1])
        if ref is None or type_ is None:
            return "its weight is computed at run time"
        for pattern in self.skip:
            if any(fnmatchcase(name, pattern) for name in ref.layers):
                return f"skipped by the pattern '{pattern}'"
        stored, wanted = layer_format(layer), find(self.format)
        if stored.pattern not in ("2:4", wanted.pattern):  # what is 2:4 has every pattern
            return f"its weight is {stored.pattern}, not {wanted.pattern}"
        n, k = type_.shape or (None, None)
        if n is None or k is None or type_.dtype is None:
            return "the type of its weight isn't known when compiling"
        return wanted.why_not(n, k, type_.dtype, ir.StringAttr(layer.attributes["epilogue"]).value)
