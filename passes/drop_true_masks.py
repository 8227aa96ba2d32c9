"""The pass ``drop-true-masks``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.passes.attention_masks import attention_where
from sparseflow.passes.base import Pass
from sparseflow.passes.elements import Elements
from sparseflow.passes.ir_builder import before, none
from sparseflow.passes.sizes import KnownSizes


@dataclass(frozen=True)
class DropTrueMasks(Pass):
    """Remove attention masks that are true everywhere.

    Requires: nothing.

    Ensures: a `torch.aten.scaled_dot_product_attention` has no mask where the operations that make its
    boolean mask prove it true everywhere, as those that encoders make for calls without padding. Kernels
    that read none are faster, and nothing makes it.

    Left alone: masks of other dtypes; those that depend on a tensor of the call, such as a padding mask;
    those whose sizes aren't proven to be the scores', or 1.
    """

    name: ClassVar[str] = "drop-true-masks"

    def run(self, module: ir.Module) -> None:
        """Rewrite what is proven."""
        for op in attention_where(module, _masks_nothing):
            with before(op):
                op.operands[3] = none()


def _masks_nothing(op: ir.Operation, sizes: KnownSizes, elements: Elements) -> bool:
    query, key, _, mask, *_ = op.operands
    found, queries, keys = elements.condition(mask), sizes.of(query), sizes.of(key)
    if found is None or found.limits or found.reads or not queries or not keys:
        return False
    if len(found.sizes) > len(queries):
        return False
    scores = (*queries[:-1], keys[-2])[-len(found.sizes) :]
    return all(size in (1, score) for size, score in zip(found.sizes, scores, strict=True))
