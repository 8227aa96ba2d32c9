"""The pass ``causal-attention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.matchers import known_bool
from sparseflow.passes.attention_masks import attention_where
from sparseflow.passes.base import Pass
from sparseflow.passes.elements import Condition, Elements, Limit
from sparseflow.passes.ir_builder import before, constant_bool, none
from sparseflow.passes.sizes import KnownSizes


@dataclass(frozen=True)
class CausalAttention(Pass):
    """Replace a causal mask of an attention by its `is_causal` flag.

    Requires: nothing.

    Ensures: a `torch.aten.scaled_dot_product_attention` has no mask and `is_causal` where the operations that
    make its boolean mask prove it true exactly where the key's place is not after the query's. Its kernel
    then leaves out half of the work, and nothing makes or reads the mask.

    Left alone: masks of other dtypes and patterns; those that depend on a tensor of the call, such as a
    padding mask; those whose sizes aren't proven to be those of queries and keys.
    """

    name: ClassVar[str] = "causal-attention"

    def run(self, module: ir.Module) -> None:
        """Rewrite what is proven."""
        for op in attention_where(module, _is_causal):
            with before(op):
                op.operands[3], op.operands[5] = none(), constant_bool(True)


def _is_causal(op: ir.Operation, sizes: KnownSizes, elements: Elements) -> bool:
    query, key, _, mask, _, causal, *_ = op.operands
    if known_bool(causal) is not False:
        return False
    found, queries, keys = elements.of(mask), sizes.of(query), sizes.of(key)
    if not isinstance(found, Condition) or found.reads or not queries or not keys:
        return False
    rank = len(found.sizes)
    not_after = Limit((0,) * (rank - 2) + (-1, 1), 0)
    return found.limits == {not_after} and found.sizes[-2:] == (queries[-2], keys[-2])
