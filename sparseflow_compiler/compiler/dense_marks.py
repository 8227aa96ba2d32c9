"""The weights of a program that nothing may make sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.weight import KIND
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime import first_violation


@dataclass
class DenseMarks:
    """What nothing may make sparse, and what pruning might.

    Attributes:
        reasons: the table of `keep-dense`: why weights stay dense, by their names.
        prunable: the weights that are not 2:4 only because nothing was to prune them.
        unpruned: whether there are matrices that are not 2:4, none that is, and pruning is not asked for.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    prunable: frozenset[str] = frozenset()
    unpruned: bool = False


def dense_marks(
    module: ir.Module, tensors: Mapping[str, torch.Tensor], options: CompileOptions, bank: WeightBank
) -> DenseMarks:
    """What stays dense in a program.

    Args:
        module: in the form of `canonicalize-linear`.
        tensors: its weights as the model has them.
        options: of the compilation.
        bank: knows what other programs made of the weights.
    """
    marks: dict[str, str] = {}
    found: dict[str, list[ir.Operation]] = {"2:4": [], "not 2:4": []}
    prunable, pruned = bank.prunable(), options.prune is not None
    for op in operations(module, ("sparse_gemm.weight",)):
        name = ir.StringAttr(op.attributes["name"]).value
        why = _why_left(op, name, prunable) if pruned else "nothing is to prune it"
        if why is None or KIND in op.attributes:
            reason = (
                "a program captured before reads its weight unpruned" if bank.is_read_as_it_is(name) else None
            )
        elif bank.was_packed(name):  # then it was 2:4, and its dense bytes may be gone
            reason = None
        else:
            tensor = tensors[name].detach()
            reason = _not_24(tensor.t() if "transposed" in op.attributes else tensor, name, why, pruned)
            if tensor.dim() == 2 and tensor.is_floating_point():
                found["2:4" if reason is None else "not 2:4"].append(op)
        if reason:
            marks[name] = reason
    if pruned or options.contextual is not None:
        return DenseMarks(marks)
    names = ((op, ir.StringAttr(op.attributes["name"]).value) for op in found["not 2:4"])
    would = frozenset(name for op, name in names if _why_left(op, name, prunable) is None)
    return DenseMarks(marks, would, bool(found["not 2:4"]) and not found["2:4"])


def _why_left(op: ir.Operation, name: str, prunable: Prunable) -> str | None:
    """Why pruning doesn't make a weight 2:4 as the graph reads it; None where it does."""
    if name in prunable.kept:
        return f"pruning leaves it as it is: {prunable.kept[name]}"
    transposed = "transposed" in op.attributes
    if prunable.layers.get(name, transposed) is not transposed:
        return "pruning makes it 2:4 along its other dimension, which its own layer multiplies by"
    return None


def _not_24(tensor: torch.Tensor, name: str, why: str, pruned: bool) -> str | None:
    if tensor.dim() != 2 or not tensor.is_floating_point():
        return None
    if tensor.is_meta and pruned:
        return f"its weight is on the meta device, and {why}"
    bad = first_violation(tensor, name=name)
    return bad and f"its weight is not 2:4 (row {bad[0]}, group {bad[1]}), and {why}"
