"""Schedule pruning in execution order, block by block within a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.pruning.calibration import Calibration, enough_memory, layer_by_layer
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.offload import device_of, offloaded
from sparseflow.pruning.prune_options import PruneOptions
from sparseflow.pruning.pruner import Pruner
from sparseflow.pruning.refinement import attention_name
from sparseflow.pruning.stacks import NotAChain, Stack, Visit, find_stacks, record, walk
from sparseflow.pruning.statistics import nonfinite_inputs, watching


@dataclass
class _Stage:
    """Layers pruned from one recording: those of a stack, or some outside all stacks."""

    stack: Stack | None
    layers: list[Layer] = field(default_factory=list)


def prune_by_stages(
    calibration: Calibration, layers: Sequence[Layer], pruner: Pruner, options: PruneOptions
) -> list[str]:
    """Prune layers in the order in which the model runs them.

    Args:
        calibration: the model and its batches.
        layers: the layers to prune.
        pruner: prunes them.
        options: how.

    Returns:
        Notes for the report.

    Raises:
        ArgumentError: attention is to be reconstructed where a block has none.
        CalibrationError: the model refuses a batch, a layer's inputs hold NaN or Inf, or the device's memory
            is too small.
    """
    notes = []
    host = device_of(calibration.model)
    device = None if options.device is None else torch.empty(0, device=options.device).device
    device = None if device == host else device
    blocks = {
        f"{stack.name}.{index}": block
        for stack in find_stacks(calibration.model, layers)
        for index, block in enumerate(stack.blocks)
    }
    if options.reconstruct in ("attention", "mlp"):
        for name, block in blocks.items():
            attention_name(name, block)
    with (
        without_cache(calibration.model),
        layer_by_layer(),  # in all runs: the fast path would pass nested tensors between blocks
        offloaded(list(blocks.values()), host, device),
        enough_memory(device or host),
    ):
        for stage in _stages(calibration, layers):
            note = stage.stack and _prune_stack(stage, calibration, pruner, options, device)
            if note:
                notes.append(note)
            if note or stage.stack is None:
                _prune_at_once(calibration, stage.layers, pruner)
    return notes


def _prune_stack(
    stage: _Stage,
    calibration: Calibration,
    pruner: Pruner,
    options: PruneOptions,
    device: torch.device | None,
) -> str | None:
    """Prune block by block; return a note instead if blocks can't be run one by one."""
    stack = stage.stack
    assert stack is not None, "asked before"
    try:
        frames = record(stack, calibration)
    except NotAChain as reason:
        return (
            f"{stack.name or 'the model'}: pruned in one pass from the dense layers' activations: {reason}."
        )
    seeds = count(options.seed)

    def visit(visited: Visit) -> None:
        seed = next(seeds)
        if inside := stack.layers_of(visited.block, stage.layers):
            pruner.prune_block(visited, inside, seed)

    walk(stack, frames, visit, dense=options.reconstruct is not None, device=device)
    return None


def _prune_at_once(calibration: Calibration, layers: Sequence[Layer], pruner: Pruner) -> None:
    pruner.prune_on(layers, calibration.run, len(calibration.calls))


def _stages(calibration: Calibration, layers: Sequence[Layer]) -> list[_Stage]:
    """Return the stacks and the layers that run before, between and after them."""
    stacks = {
        layer.name: stack
        for stack in find_stacks(calibration.model, layers)
        for block in stack.blocks
        for layer in stack.layers_of(block, layers)
    }
    stages: list[_Stage] = []
    known: dict[str, _Stage] = {}
    for layer in _by_first_call(calibration, layers):
        stack = stacks.get(layer.name)
        if stack is not None and stack.name in known:
            known[stack.name].layers.append(layer)
            continue
        if stack is not None or not stages or stages[-1].stack is not None:
            stages.append(_Stage(stack))
        stages[-1].layers.append(layer)
        if stack is not None:
            known[stack.name] = stages[-1]
    return stages


def _by_first_call(calibration: Calibration, layers: Sequence[Layer]) -> list[Layer]:
    """Sort layers by when the first batch reaches them, unreached ones last."""
    reached: dict[str, Layer] = {}

    def see(layer: Layer, x: Tensor) -> None:
        reached.setdefault(layer.name, layer)
        if not x.isfinite().all():
            raise nonfinite_inputs(layer.name)

    with watching(layers, see):
        calibration.run(0)
    return [*reached.values(), *(layer for layer in layers if layer.name not in reached)]
