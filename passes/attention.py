"""The attention of a module about whose mask something is proven."""

from __future__ import annotations

from collections.abc import Callable

from torch_mlir import ir

from sparseflow.dialect.matchers import operations
from sparseflow.passes.elements import Elements
from sparseflow.passes.sizes import KnownSizes

Proof = Callable[[ir.Operation, KnownSizes, Elements], bool]


def attention_where(module: ir.Module, proven: Proof) -> list[ir.Operation]:
    """Every `torch.aten.scaled_dot_product_attention` for which `proven` holds.

    All are found before any is rewritten: what is known of sizes holds for the module as it is.
    """
    sizes = KnownSizes(module)
    elements = Elements(sizes)
    attention = operations(module, {"torch.aten.scaled_dot_product_attention"})
    return [op for op in attention if proven(op, sizes, elements)]
