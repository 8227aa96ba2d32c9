"""The pass ``match-sparse-linear``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.linear import linear
from sparseflow.dialect.matchers import is_none, operations, weight_ref
from sparseflow.dialect.weight import PATTERN
from sparseflow.passes.base import Pass, option
from sparseflow.passes.eligibility import Limits, reason_to_stay
from sparseflow.passes.ir_builder import before, explain, replace
from sparseflow.passes.weight_uses import WeightUses


@dataclass(frozen=True)
class MatchSparseLinear(Pass):
    """Make linear layers sparse, or record why they can't be.

    Requires: layers in the form of `canonicalize-linear`.

    Ensures: each `torch.aten.linear` over a weight by reference that is eligible is a
    `sparse_gemm.linear`, in the format that its weight's `sparse_gemm.pattern` names, or 2:4; buffers and
    constants aren't weights. Layers that share a weight become sparse
    together or not at all. Each layer that stays carries the attribute `sparse_gemm.reason`; one that carries
    it already stays dense. `explain-products` does the same for other products.
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

    @property
    def limits(self) -> Limits:
        """The limits that the options set."""
        return Limits(self.min_n, self.min_k, self.skip)

    def reasons(self, layers: Sequence[ir.Operation], uses: WeightUses) -> list[str | None]:
        """Return for each layer why it can't become sparse along with the others, or None.

        Args:
            layers: each a `torch.aten.linear`.
            uses: of the module's weights.
        """
        limits = self.limits
        refs = [weight_ref(op.operands[1]) for op in layers]
        reasons = [reason_to_stay(op, ref, limits) for op, ref in zip(layers, refs, strict=True)]
        changed = True
        # An ineligible layer makes all that share its weight ineligible too, and so on.
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
    ref = weight_ref(weight)
    marked = ref is not None and PATTERN in ref.op.attributes
    format = text_of(ref.op, PATTERN) if ref is not None and marked else "2:4"
    with before(op):
        layer = linear(x, weight, None if is_none(bias) else bias, result=op.results[0].type, format=format)
    replace(op, layer.results[0])
