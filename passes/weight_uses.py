"""Find all readers of a weight: it can only be packed if every one of them is a sparse layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import operations, weight_ref

_WEIGHT_OPERAND = 1


@dataclass(frozen=True)
class Use:
    """One reader of a named tensor.

    Attributes:
        op: the reading operation.
        as_weight: whether it reads it as the weight of a linear layer.
        transposed: whether it reads it transposed.
    """

    op: ir.Operation
    as_weight: bool
    transposed: bool


class WeightUses:
    """Every reader of every tensor of a module, by the tensor's name; several references may share one."""

    def __init__(self, module: ir.Module) -> None:
        self._uses: dict[str, list[Use]] = defaultdict(list)
        self._dense: dict[str, str] = {}
        for op in operations(module, {"sparse_gemm.weight", "sparse_gemm.merged_weight"}):
            self._read(op)

    def _read(self, op: ir.Operation) -> None:
        ref = weight_ref(op.results[0])
        assert ref is not None  # operations() selected weights
        for name, transposed in zip(ref.names, ref.transposed, strict=True):
            self._uses[name].extend(_uses(op, transposed))
            if "sparse_gemm.dense" in op.attributes:
                self._dense[name] = text_of(op, "sparse_gemm.dense")

    def of(self, name: str) -> list[Use]:
        """Return the readers of a tensor."""
        return self._uses[name]

    def forbidden(self, name: str) -> str | None:
        """Return why the weight source requires a tensor to stay dense, or None."""
        return self._dense.get(name)

    def conflict(self, name: str, sparse: Collection[ir.Operation]) -> str | None:
        """Return why a tensor can't be packed even if the given layers become sparse, or None."""
        uses = self.of(name)
        for use in uses:
            if not use.as_weight:
                return f"its weight '{name}' is also read by {use.op.name}"
            if use.op.name == "torch.aten.linear" and use.op not in sparse:
                return f"its weight '{name}' is shared with a layer that stays dense"
        if len({use.transposed for use in uses}) > 1:
            return f"its weight '{name}' is read both as it is and transposed"
        return None


def _uses(weight: ir.Operation, transposed: bool) -> Iterator[Use]:
    for use in weight.results[0].uses:
        op = use.owner.operation
        is_layer = op.name in ("torch.aten.linear", "sparse_gemm.linear", "sparse_gemm.column_linear")
        yield Use(op, is_layer and use.operand_number == _WEIGHT_OPERAND, transposed)
