"""Lower MLIR to an executable torch.fx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.errors import LoweringError
from sparseflow.lowering.weight_provider import DenseWeights, Packed, WeightProvider

if TYPE_CHECKING:
    from torch.fx import GraphModule
    from torch_mlir import ir

__all__ = ["DenseWeights", "Packed", "WeightProvider", "to_fx"]


def to_fx(module: ir.Module, weights: WeightProvider, device_type: str = "cpu") -> GraphModule:
    """Lower `@main` of a module to a torch.fx graph that PyTorch runs.

    Args:
        module: a module that the frontend made, whether passes rewrote it or not.
        weights: resolves the names of weights; see `DenseWeights` for the plain case.
        device_type: where the graph will run, which decides about forms of attention.

    Returns:
        A module that takes the flattened tensors of a call and returns every result of `@main` as a tuple.
        Its weights are buffers that share storage with those of `weights`.

    Raises:
        LoweringError: there is no `@main`, or an operation has no executable counterpart.
    """
    from sparseflow.lowering.builder import GraphBuilder

    for op in module.body.operations:
        if op.operation.name == "func.func" and str(op.operation.attributes["sym_name"]) == '"main"':
            return GraphBuilder(weights, device_type).build(op.operation)
    raise LoweringError("module", "it has no function @main", "lower what import_program made")
