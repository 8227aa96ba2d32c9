"""The pass ``quantize-sparse-linear``."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import GATES, QUANTIZED_DTYPES, UNQUANTIZED
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass, option

FP8_TILE = 64
"""The kernels for fp8 take no padded weights."""


@dataclass(frozen=True)
class QuantizeSparseLinear(Pass):
    """Make sparse layers multiply in fp8, and write down why where they can't.

    Requires: layers are merged (`merge-projections`); no policy yet (`apply-policy` looks it up by the dtype
    that a layer multiplies).

    Ensures: each `sparse_gemm.linear` over a weight by reference in f16 or bf16, N and K multiples of 64, has
    `quantize = "fp8"`: W is scaled row by row when it is packed, x row by row when the layer runs, and bias,
    activation and residual follow in f32. Each other one has `sparse_gemm.unquantized`, the reason, and is
    otherwise left alone.
    """

    name: ClassVar[str] = "quantize-sparse-linear"
    skip: tuple[str, ...] = option(
        (), "leave layers whose name matches one of these patterns (fnmatch) alone"
    )

    def run(self, module: ir.Module) -> None:
        """Look at each layer by itself."""
        for op in operations(module, {"sparse_gemm.linear"}):
            reason = self._reason(op)
            if reason is None:
                op.attributes["quantize"] = ir.StringAttr.get("fp8")
            else:
                op.attributes[UNQUANTIZED] = ir.StringAttr.get(reason)

    def _reason(self, layer: ir.Operation) -> str | None:
        """Why a layer is not quantised, None if it is."""
        ref, type_ = weight_ref(layer.operands[1]), tensor_type(layer.operands[1])
        if ref is None or type_ is None:
            return "its weight is computed at run time"
        for pattern in self.skip:
            if any(fnmatchcase(name, pattern) for name in ref.layers):
                return f"skipped by the pattern '{pattern}'"
        if ir.StringAttr(layer.attributes["epilogue"]).value in GATES:
            return "it has a gate, which fp8 products don't"
        if type_.dtype not in QUANTIZED_DTYPES:
            known = ", ".join(QUANTIZED_DTYPES)
            return f"it is {type_.dtype or 'of an unknown dtype'}; fp8 takes the place of {known}"
        n, k = type_.dim(0), type_.dim(1)
        if n is None or k is None:
            return "the shape of its weight isn't known when compiling"
        if n % FP8_TILE or k % FP8_TILE:
            return f"N and K must be multiples of {FP8_TILE}, got N={n}, K={k}"
        return None
