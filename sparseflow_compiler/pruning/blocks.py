"""Permute, prune and reconstruct the layers of one block."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from sparseflow.pruning.folding import find_folds, fold_channels
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.prune_options import PruneOptions
from sparseflow.pruning.refinement import Refinement
from sparseflow.pruning.stacks import Visit
from sparseflow.pruning.statistics import Gathering, Statistics, Watch, gather, watching
from sparseflow.runtime.pattern import Pattern


def permute_block(
    visit: Visit, readers: Sequence[Layer], layers: Sequence[Layer], pattern: Pattern
) -> list[str]:
    """Permute the input channels of `readers` where `layers` can compensate; return their names."""
    inside = set(visit.block.modules())
    groups = by_input(visit, [layer for layer in layers if layer.module in inside])
    folds = find_folds(visit, readers, groups, pattern.block)
    permuted = [fold.reader for fold in folds]
    statistics = gather(permuted, visit.call, len(visit.frames), gram=False)
    folds = [fold for fold in folds if statistics[fold.reader.name].rows]
    fold_channels(folds, {name: gathered.norms() for name, gathered in statistics.items()}, pattern)
    return [fold.reader.name for fold in folds]


class Twin:
    """A dense copy of a block, which provides target inputs and outputs of its layers.

    Args:
        visit: the block, still dense.
        layers: its layers to prune.
    """

    def __init__(self, visit: Visit, layers: Sequence[Layer]) -> None:
        self._visit = visit
        self.block: nn.Module = copy.deepcopy(visit.block)
        paths = {module: path for path, module in visit.block.named_modules()}
        self.layers = {
            layer.name: replace(layer, module=self.block.get_submodule(paths[layer.module]))
            for layer in layers
        }

    def gather(self, layers: Sequence[Layer]) -> Gathering:
        """Gather statistics of layers' inputs, with cross terms of the dense model's inputs."""
        calls = len(self._visit.frames)
        statistics = {layer.name: Statistics(layer, gram=True, calls=calls, cross=True) for layer in layers}
        dense: dict[str, list[Tensor]] = defaultdict(list)

        def keep(layer: Layer, x: Tensor) -> None:
            dense[layer.name].append(x.clone())  # the block may change it in place

        def add(layer: Layer, x: Tensor) -> None:
            expected = dense[layer.name]
            statistics[layer.name].add(x, expected.pop(0) if expected else None)

        twins, own = Watch([self.layers[layer.name] for layer in layers], keep), Watch(layers, add)
        for batch in range(calls):
            dense.clear()
            twins.run(partial(self._visit.call_dense, batch, self.block))
            own.run(partial(self._visit.call, batch))
        return statistics

    def refine(self, layers: Sequence[Layer], options: PruneOptions, seed: int) -> bool:
        """Train the kept weights of `layers` as the options say; return whether they say so."""
        if options.reconstruct in (None, "layer"):
            return False
        Refinement(self._visit, self.block, layers, options.reconstruct).run(options.steps, seed)
        return True


def by_input(visit: Visit, layers: Sequence[Layer]) -> list[list[Layer]]:
    """Group layers by input, in the order in which the block runs them."""
    groups: dict[int, list[Layer]] = {}
    inputs: list[Tensor] = []
    seen: set[str] = set()

    def see(layer: Layer, x: Tensor) -> None:
        if layer.name not in seen:
            seen.add(layer.name)
            inputs.append(x)  # kept alive, so that its id isn't reused
            groups.setdefault(id(x), []).append(layer)

    with watching(layers, see):
        visit.call(0)
    rest = [layer for layer in layers if layer.name not in seen]
    return [*groups.values(), rest] if rest else list(groups.values())
