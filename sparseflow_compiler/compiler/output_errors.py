"""Measure the error of layers in lossy formats on the inputs of a call, relative to the pruned layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparseflow.compiler.bank import WeightBank
from sparseflow.lowering.weight_provider import packed_module
from sparseflow.runtime.checks import row_chunks
from sparseflow.runtime.packed import PackedWeight

ROWS = 256
"""The number of rows of a layer's input that are compared, spread evenly."""


@torch.no_grad()
def output_errors(graph: fx.GraphModule, leaves: Sequence[object], bank: WeightBank) -> dict[str, float]:
    """Run a graph once and compare each layer in a lossy format with the pruned dense layer.

    Args:
        graph: lowered, its weights packed.
        leaves: the tensors of a call.
        bank: the weights.

    Returns:
        ‖y − found‖ / ‖y‖ by weight name, with y = x · Wᵀ + bias in float32. Empty if weights are released
        when they are packed, because there is nothing to compare with.
    """
    if bank.releases or not any(_lossy_weight(graph, node) for node in graph.graph.nodes):
        return {}
    run = _Comparison(graph, bank)
    run.run(*leaves)
    return run.errors


def _lossy_weight(root: nn.Module, node: fx.Node) -> PackedWeight | None:
    """Return the weight of a layer in a lossy format; None for any other node."""
    held = packed_module(root, node.args[1]) if len(node.args) > 1 else None
    layer = isinstance(held, PackedWeight) and held.format.lossy and node.target is held.format.op
    return held if isinstance(held, PackedWeight) and layer else None


class _Comparison(fx.Interpreter):
    """Run a graph and record the error of each layer in a lossy format."""

    def __init__(self, graph: fx.GraphModule, bank: WeightBank) -> None:
        super().__init__(graph)
        self.errors: dict[str, float] = {}
        self._bank = bank

    def run_node(self, n: fx.Node) -> object:
        if (weight := _lossy_weight(self.module, n)) is not None:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self._compare(weight, args)
        return super().run_node(n)

    def _compare(self, weight: PackedWeight, args: Sequence[object]) -> None:
        after = 1 + len(weight.format.part_names)
        x, packed, (bias, _, in_features, _) = args[0], args[1:after], args[after : after + 4]
        assert isinstance(x, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        rows = x.reshape(-1, x.shape[-1])
        rows = rows[:: max(1, rows.shape[0] // ROWS)][:ROWS]
        if rows.is_meta or not rows.shape[0]:
            return
        # Run the layer without its epilogue and residual.
        found = weight.format.op(rows, *packed, bias, None, in_features, "none", *args[after + 4 :])
        offset = 0
        for name, part in self._bank.pruned_parts(weight):
            size = part.shape[0]
            there = slice(offset, offset + size)
            self.errors[name] = _error(found[:, there], rows, part, None if bias is None else bias[there])
            offset += size


def _error(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """Return ‖y − found‖ / ‖y‖ with y = x · Wᵀ + bias, computed in chunks of W's rows; 0 if y is zero."""
    lost, whole, x = 0.0, 0.0, x.float()
    for start, rows in row_chunks(weight):
        there = slice(start, start + rows.shape[0])
        expected = F.linear(x, rows.float(), None if bias is None else bias[there].float())
        lost += float((expected - found[:, there].float()).square().sum(dtype=torch.float64))
        whole += float(expected.square().sum(dtype=torch.float64))
    return (lost / whole) ** 0.5 if whole else 0.0
