"""Find the weights of a program that must stay dense."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.weight import KIND
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime import first_violation


def dense_marks(
    module: ir.Module, tensors: Mapping[str, torch.Tensor], options: CompileOptions, bank: WeightBank
) -> tuple[dict[str, str], bool]:
    """Return the table of `keep-dense` for a program.

    Args:
        module: in the form of `canonicalize-linear`.
        tensors: the model's weights, by name.
        options: of the compilation.
        bank: knows in which forms other programs have the weights.

    Returns:
        The reasons why weights stay dense, by name; and whether pruning is off, no matrix is 2:4, and there
        are matrices that aren't.
    """
    marks: dict[str, str] = {}
    found = {"2:4": 0, "not 2:4": 0}
    prunable, pruned = bank.prunable(), options.prune is not None
    for op in operations(module, ("sparse_gemm.weight",)):
        name = ir.StringAttr(op.attributes["name"]).value
        why = _why_unpruned(op, name, prunable) if pruned else "pruning is off"
        if why is None or KIND in op.attributes:
            reason = "an earlier program reads its weight unpruned" if bank.is_read_unpruned(name) else None
        elif bank.was_packed(name):  # so it was 2:4; its dense bytes may be released
            reason = None
        else:
            tensor = tensors[name].detach()
            reason = _not_24(tensor.t() if "transposed" in op.attributes else tensor, name, why, pruned)
            if tensor.dim() == 2 and tensor.is_floating_point():
                found["2:4" if reason is None else "not 2:4"] += 1
        if reason:
            marks[name] = reason
    return marks, options.contextual is None and not pruned and found["not 2:4"] > 0 and not found["2:4"]


def _why_unpruned(op: ir.Operation, name: str, prunable: Prunable) -> str | None:
    """Return why pruning doesn't make a weight 2:4 in the orientation that the graph reads, or None."""
    if name in prunable.kept:
        return f"pruning leaves it unchanged: {prunable.kept[name]}"
    transposed = "transposed" in op.attributes
    if prunable.layers.get(name, transposed) is not transposed:
        return "pruning makes it 2:4 along its other dimension, along which its own layer multiplies"
    return None


def _not_24(tensor: torch.Tensor, name: str, why: str, pruned: bool) -> str | None:
    if tensor.dim() != 2 or not tensor.is_floating_point():
        return None
    if tensor.is_meta and pruned:
        return f"its weight is on the meta device, and {why}"
    bad = first_violation(tensor, name=name)
    return bad and f"its weight is not 2:4 (row {bad[0]}, group {bad[1]}), and {why}"
