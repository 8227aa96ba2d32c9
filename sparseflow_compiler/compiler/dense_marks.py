"""Find the weights of a program that must stay dense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.weight import KIND
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime.formats import find
from sparseflow.runtime.pattern import Pattern, pattern_of

EXACT = "2:4"
"""The pattern that needs no mark."""


@dataclass(frozen=True)
class Verdict:
    """The decision whether a weight may become sparse.

    Attributes:
        name: name of the weight.
        reason: why it must stay dense; empty if it may become sparse.
        matrix: whether its values were checked, because it is a matrix that won't be pruned.
        prunable: whether it is not 2:4 only because pruning is off.
        pattern: the pattern that a weight has that may become sparse.
    """

    name: str
    reason: str
    matrix: bool = False
    prunable: bool = False
    pattern: str = "2:4"


def verdicts(
    module: ir.Module, tensors: Mapping[str, torch.Tensor], options: CompileOptions, bank: WeightBank
) -> tuple[Verdict, ...]:
    """Decide for each weight of a program once whether it must stay dense.

    Args:
        module: in the form of `canonicalize-linear`.
        tensors: the model's weights, by name.
        options: of the compilation.
        bank: knows in which forms other programs have the weights.
    """
    prunable, pruned = bank.prunable(), options.prune is not None
    wanted = Pattern.of(find(options.sparse_format or EXACT).pattern)
    found: list[Verdict] = []
    for op in operations(module, ("sparse_gemm.weight",)):
        name = ir.StringAttr(op.attributes["name"]).value
        why = _why_unpruned(op, name, prunable) if pruned else "pruning is off"
        if why is None or KIND in op.attributes:
            unpruned = bank.is_read_unpruned(name)
            found.append(
                Verdict(
                    name,
                    "an earlier program reads its weight unpruned" if unpruned else "",
                    pattern=wanted.name if KIND not in op.attributes else EXACT,
                )
            )
        elif stored := bank.pattern_of(name):  # its dense bytes may be released
            found.append(Verdict(name, "", pattern=stored))
        else:
            tensor = tensors[name].detach()
            read = tensor.t() if "transposed" in op.attributes else tensor
            matrix = tensor.dim() == 2 and tensor.is_floating_point()
            has, reason = _pattern(read, name, why, pruned, wanted) if matrix else (EXACT, "")
            would = bool(reason) and not pruned and _why_unpruned(op, name, prunable) is None
            found.append(Verdict(name, reason, matrix, would, has))
    return tuple(found)


def dense_marks(found: Iterable[Verdict]) -> dict[str, str]:
    """Return the table of `keep-dense`: the reasons why weights stay dense, by name."""
    return {verdict.name: verdict.reason for verdict in found if verdict.reason}


def pattern_marks(found: Iterable[Verdict]) -> dict[str, str]:
    """Return the table of `mark-patterns`: the patterns of weights that aren't 2:4, by name."""
    return {
        verdict.name: verdict.pattern for verdict in found if not verdict.reason and verdict.pattern != EXACT
    }


def is_unpruned(found: Iterable[Verdict]) -> bool:
    """Return whether there are matrices that aren't 2:4, and none that is."""
    checked = [bool(verdict.reason) for verdict in found if verdict.matrix]
    return bool(checked) and all(checked)


def prunable_weights(found: Iterable[Verdict]) -> frozenset[str]:
    """Return the names of the weights that pruning would make 2:4."""
    return frozenset(verdict.name for verdict in found if verdict.prunable)


def _why_unpruned(op: ir.Operation, name: str, prunable: Prunable) -> str | None:
    """Return why pruning doesn't make a weight 2:4 in the orientation that the graph reads, or None."""
    if name in prunable.kept:
        return f"pruning leaves it unchanged: {prunable.kept[name]}"
    transposed = "transposed" in op.attributes
    if prunable.layers.get(name, transposed) is not transposed:
        return "pruning makes it 2:4 along its other dimension, along which its own layer multiplies"
    return None


def _pattern(tensor: torch.Tensor, name: str, why: str, pruned: bool, wanted: Pattern) -> tuple[str, str]:
    """Return the sparsest pattern that a weight has, and why it must stay dense if it has none."""
    if tensor.is_meta and pruned:
        return EXACT, f"its weight is on the meta device, and {why}"
    found = pattern_of(tensor)
    if found is not None:
        return found.name, ""
    bad = wanted.first_violation(tensor, name=name)
    assert bad is not None, "a pattern with a format is among those that weights are checked for"
    return EXACT, f"its weight is not {wanted} (row {bad[0]}, group {bad[1]}), and {why}"
