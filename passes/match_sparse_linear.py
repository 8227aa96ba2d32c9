"""The pass ``match-sparse-linear``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import linear
from sparseflow.dialect.matchers import is_none, operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.base import Pass, option
from sparseflow.passes.build import before, explain, replace
from sparseflow.passes.eligibility import Limits, reason_to_stay
from sparseflow.passes.products import any_weight
from sparseflow.passes.sharing import WeightUses

_OTHER_PRODUCTS = frozenset(
    f"torch.aten.{name}" for name in ("mm", "matmul", "addmm", "bmm", "baddbmm", "mv", "addmv")
)
# Operators that the Torch dialect doesn't know are told by their name, such as torch.aten._grouped_mm.
_UNKNOWN = "torch.operator"
_UNKNOWN_PRODUCT = re.compile(r"torch\.\w+\.(\w*_)?(b|add|baddb)?mm(_\w*|\.\w+)?")


@dataclass(frozen=True)
class MatchSparseLinear(Pass):
    """Make linear layers sparse, and write down why where they can't be.

    Requires: layers in the form of `canonicalize-linear`.

    Ensures: each `torch.aten.linear` over a weight by reference that nothing speaks against is a
    `sparse_gemm.linear`; buffers and constants are no weights. Layers that share a weight become sparse
    together or not at all. Each layer that stays, and each other product with a weight, carries the attribute
    `sparse_gemm.reason`; one that carries it already stays dense.
    """

    name: ClassVar[str] = "match-sparse-linear"
    min_n: int = option(16, "leave layers with fewer out features dense")
    min_k: int = option(16, "leave layers with fewer in features dense")
    skip: tuple[str, ...] = option(
        (), "leave layers whose name matches one of these patterns (fnmatch) dense"
    )

    def run(self, module: ir.Module) -> None:
        """Decide for all layers before rewriting any: they may share weights."""
        layers = operations(module, {"torch.aten.linear"})
        decisions = self.reasons(layers, WeightUses(module))
        for op, reason in zip(layers, decisions, strict=True):
            if reason is None:
                _make_sparse(op)
            else:
                explain(op, reason)
        for op in operations(module, _OTHER_PRODUCTS | {_UNKNOWN}):
            if (reason := _other_reason(op)) is not None:
                explain(op, reason)

    @property
    def limits(self) -> Limits:
        """What the options rule out."""
        return Limits(self.min_n, self.min_k, self.skip)

    def reasons(self, layers: Sequence[ir.Operation], uses: WeightUses) -> list[str | None]:
        """Why each of some layers can't become sparse together with the others; None where it can.

        Args:
            layers: each a `torch.aten.linear`.
            uses: of the module's weights.
        """
        limits = self.limits
        refs = [weight_ref(op.operands[1]) for op in layers]
        reasons = [reason_to_stay(op, ref, limits) for op, ref in zip(layers, refs, strict=True)]
        changed = True
        # A layer that drops out takes those with it that share its weight, and so on.
        while changed:
            changed = False
            sparse = {op for op, reason in zip(layers, reasons, strict=True) if reason is None}
            for index, ref in enumerate(refs):
                if reasons[index] is None and ref is not None:
                    found = (uses.forbidden(name) or uses.conflict(name, sparse) for name in ref.names)
                    reasons[index] = next(filter(None, found), None)
                    changed |= reasons[index] is not None
        return reasons


def _make_sparse(op: ir.Operation) -> None:
    x, weight, bias = op.operands
    with before(op):
        layer = linear(x, weight, None if is_none(bias) else bias, result=op.results[0].type)
    replace(op, layer.results[0])


def _other_reason(op: ir.Operation) -> str | None:
    """Why a product that isn't a linear layer stays dense, None when it has nothing to do with weights."""
    name: str = op.attributes["name"].value if op.name == _UNKNOWN else op.name
    if op.name == _UNKNOWN and not _UNKNOWN_PRODUCT.fullmatch(name):
        return None
    weights = [weight for operand in op.operands if (weight := any_weight(operand)) is not None]
    ranks = [type_.rank for weight in weights if (type_ := tensor_type(weight.results[0])) is not None]
    matrices = [rank for rank in ranks if rank is not None and rank >= 2]
    if not matrices:
        return None
    if max(matrices) > 2:
        return f"its weight has rank {max(matrices)}; only matrices can be packed"
    return f"this {name.split('.')[2]} isn't of the form x W^T + bias"
