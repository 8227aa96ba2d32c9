"""The weights of a program that nothing may make sparse."""

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
from sparseflow.runtime import first_violation


@dataclass(frozen=True)
class Verdict:
    """Whether a weight may become sparse.

    Attributes:
        name: of the weight.
        reason: why it stays dense; empty if it needn't.
        matrix: whether that was read from its values: it is a matrix that nothing prunes.
    """

    name: str
    reason: str
    matrix: bool = False


def verdicts(
    module: ir.Module, tensors: Mapping[str, torch.Tensor], options: CompileOptions, bank: WeightBank
) -> tuple[Verdict, ...]:
    """Look at each weight of a program once.

    Args:
        module: in the form of `canonicalize-linear`.
        tensors: its weights as the model has them.
        options: of the compilation.
        bank: knows what other programs made of the weights.
    """
    prunable, pruned = bank.prunable(), options.prune is not None
    found: list[Verdict] = []
    for op in operations(module, ("sparse_gemm.weight",)):
        name = ir.StringAttr(op.attributes["name"]).value
        why = _why_left(op, name, prunable) if pruned else "nothing is to prune it"
        if why is None or KIND in op.attributes:
            kept = bank.is_read_as_it_is(name)
            found.append(Verdict(name, "a program captured before reads its weight unpruned" if kept else ""))
        elif bank.was_packed(name):  # then it was 2:4, and its dense bytes may be gone
            found.append(Verdict(name, ""))
        else:
            tensor = tensors[name].detach()
            read = tensor.t() if "transposed" in op.attributes else tensor
            matrix = tensor.dim() == 2 and tensor.is_floating_point()
            found.append(Verdict(name, _not_24(read, name, why, pruned) if matrix else "", matrix))
    return tuple(found)


def dense_marks(found: Iterable[Verdict]) -> dict[str, str]:
    """Return the table of `keep-dense`: why weights stay dense, by their names."""
    return {verdict.name: verdict.reason for verdict in found if verdict.reason}


def is_unpruned(found: Iterable[Verdict]) -> bool:
    """Return whether there are matrices that are not 2:4, and none that is."""
    looked_at = [bool(verdict.reason) for verdict in found if verdict.matrix]
    return bool(looked_at) and all(looked_at)


def _why_left(op: ir.Operation, name: str, prunable: Prunable) -> str | None:
    """Why pruning doesn't make a weight 2:4 as the graph reads it; None where it does."""
    if name in prunable.kept:
        return f"pruning leaves it as it is: {prunable.kept[name]}"
    transposed = "transposed" in op.attributes
    if prunable.layers.get(name, transposed) is not transposed:
        return "pruning makes it 2:4 along its other dimension, which its own layer multiplies by"
    return None


def _not_24(tensor: torch.Tensor, name: str, why: str, pruned: bool) -> str:
    if tensor.is_meta and pruned:
        return f"its weight is on the meta device, and {why}"
    bad = first_violation(tensor, name=name)
    return f"its weight is not 2:4 (row {bad[0]}, group {bad[1]}), and {why}" if bad else ""
