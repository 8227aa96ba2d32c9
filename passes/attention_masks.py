"""Find attention whose mask is proven to have a given property."""

from __future__ import annotations

from collections.abc import Callable

from torch_mlir import ir

from sparseflow.dialect.matchers import is_none, operations
from sparseflow.passes.elements import Elements
from sparseflow.passes.sizes import KnownSizes

Proof = Callable[[ir.Operation, KnownSizes, Elements], bool]


def attention_where(module: ir.Module, proven: Proof) -> list[ir.Operation]:
    """Return every `torch.aten.scaled_dot_product_attention` that reads a mask for which `proven` holds.

    All are found before any is rewritten, because known sizes are only valid for the unmodified module.
    """
    attention = operations(module, {"torch.aten.scaled_dot_product_attention"})
    masked = [op for op in attention if not is_none(op.operands[3])]
    if not masked:
        return []
    sizes = KnownSizes(module)
    elements = Elements(sizes)
    return [op for op in masked if proven(op, sizes, elements)]
