"""What pruning each layer to each pattern costs and saves, and the choice of a pattern a layer by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.knapsack import Front
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.pruning.prune_options import DENSE
from sparseflow.pruning.prune_report import PruneReport
from sparseflow.pruning.savings import Savings, bytes_saved, dense_bytes, packed_bytes, savings
from sparseflow.pruning.sensitivity import Switchboard
from sparseflow.support.progress import progress_bars

Chosen = Mapping[str, str]
"""The pattern of each layer that isn't dense."""

PruneAgain = Callable[[Sequence[object], Sequence[str], str | Chosen], PruneReport]
"""Prunes the model in place, given the batches, the patterns of names to skip, and the sparsity pattern."""


@dataclass(frozen=True)
class Option:
    """A pattern that a layer could have.

    Attributes:
        pattern: its name, or "dense".
        loss: the model's loss if this layer alone has it.
        expected: its share of the loss of a model pruned throughout: `loss`, scaled so that the losses of all
            layers in this pattern add up to the measured loss of pruning them all to it.
        saved: what running the layer so saves, in the unit of the savings.
        nbytes: of the weight.
    """

    pattern: str
    loss: float
    expected: float
    saved: float
    nbytes: int


_DENSE_COSTS_NOTHING = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Candidates:
    """All layers that can be pruned, with their options.

    Attributes:
        board: the model, dense.
        options: of each layer by name: dense, if that was asked for, then the patterns as they were.
        losses: measured with all layers in one pattern, by pattern.
        savings: what they are.
        layers: the same layers.
        reports: of pruning all layers to one pattern, by pattern.
    """

    board: Switchboard
    options: Mapping[str, tuple[Option, ...]]
    losses: Mapping[str, float]
    savings: Savings
    layers: tuple[Layer, ...]
    reports: Mapping[str, PruneReport]

    def picked(self, chosen: Sequence[int] | None) -> Chosen | None:
        """Return the patterns of layers by the indices of their options."""
        if chosen is None:
            return None
        pairs = zip(self.options.items(), chosen, strict=True)
        named = {name: options[index].pattern for (name, options), index in pairs}
        return {name: pattern for name, pattern in named.items() if pattern != DENSE}

    def of(self, chosen: Chosen) -> list[Option]:
        """Return the option that each layer has in a choice."""
        return [
            next(one for one in options if one.pattern == chosen.get(name, DENSE))
            for name, options in self.options.items()
        ]

    def by_loss(self, budget: float) -> Front:
        """Return the choices that save most for each expected loss up to a budget."""
        items = [[(one.expected, one.saved) for one in options] for options in self.options.values()]
        return Front(items, budget)

    def by_saving(self) -> Front:
        """Return the choices that lose least, for each amount of saving that is forgone."""
        items = [
            [(max(o.saved for o in options) - one.saved, -one.expected) for one in options]
            for options in self.options.values()
        ]
        return Front(items, self.most_saved)

    def by_bytes(self, budget: int) -> Front:
        """Return the choices that lose least for each number of bytes up to a budget."""
        items = [[(float(one.nbytes), -one.expected) for one in options] for options in self.options.values()]
        return Front(items, float(budget))

    @property
    def most_saved(self) -> float:
        """What the layers save in their fastest options."""
        return sum(max(one.saved for one in options) for options in self.options.values())

    @property
    def bytes_dense(self) -> int:
        """The bytes of the layers' dense weights."""
        return sum(map(dense_bytes, self.layers))

    def bytes_in(self, pattern: str) -> int:
        """Return the bytes of the layers' weights if all had one pattern."""
        return sum(packed_bytes(layer, pattern) for layer in self.layers)

    def harm(self, name: str, pattern: str) -> float:
        """Return what a layer costs for its saving in a pattern."""
        option = next(one for one in self.options[name] if one.pattern == pattern)
        return option.expected / option.saved if option.saved else 0.0

    def count(self, chosen: Chosen) -> dict[str, int]:
        """Return how many layers have each pattern."""
        counts = Counter(one.pattern for one in self.of(chosen))
        order = dict.fromkeys(one.pattern for options in self.options.values() for one in options)
        return {pattern: counts[pattern] for pattern in order if counts[pattern]}


def weigh(
    model: nn.Module,
    batches: Sequence[object],
    patterns: Sequence[str],
    skip: Sequence[str],
    ms: Sequence[int] | None,
    progress: bool | None,
    prune: PruneAgain,
    require: Callable[[Savings], None] = lambda saved: None,
) -> Candidates:
    """Measure what pruning each layer to each pattern costs the model and saves; the model stays dense.

    All layers are pruned to each pattern in turn; then the loss of each layer alone is measured in each. The
    pruned parameters of every pattern are held on the CPU.

    Args:
        model: dense.
        batches: as for `sparseflow.prune`.
        patterns: names of patterns; "dense" means that layers may stay dense.
        skip: patterns of names of layers that stay dense in any case.
        ms: the numbers of rows M at which the saved time counts; None: bytes count.
        progress: as for `sparseflow.prune`.
        prune: prunes the model.
        require: given the savings, raises an error if they don't do; called before losses are measured.
    """
    data = Calibration.of(model, batches)
    layers = [layer for layer in find_layers(model, skip) if layer.dense is None]
    board = Switchboard(data, layers)
    sparse = [pattern for pattern in patterns if pattern != DENSE]
    reports: dict[str, PruneReport] = {}
    pruned: list[str] = []
    for pattern in sparse:
        reports[pattern] = prune(batches, skip, pattern)
        pruned = [entry.name for entry in reports[pattern].layers if entry.method is not None]
        board.keep(pattern, pruned)
    layers = [layer for layer in layers if layer.name in pruned]
    with progress_bars(progress) as bars:
        saved = (
            bytes_saved(layers, sparse) if ms is None else savings(layers, ms, bars.stage("measure"), sparse)
        )
        require(saved)
        alone = board.alone(bars.stage("weigh"))
    losses = {pattern: board.loss_of(dict.fromkeys(alone, pattern)) for pattern in sparse}
    board.apply({})
    shares = {
        pattern: _share(losses[pattern], [alone[name][pattern] for name in alone]) for pattern in sparse
    }
    options = {
        layer.name: (
            # First, as the first of two that cost and save the same is taken.
            *([Option(DENSE, *_DENSE_COSTS_NOTHING, dense_bytes(layer))] if DENSE in patterns else []),
            *(_option(layer, pattern, alone, saved, shares[pattern]) for pattern in sparse),
        )
        for layer in layers
    }
    return Candidates(board, options, losses, saved, tuple(layers), reports)


def _option(
    layer: Layer,
    pattern: str,
    alone: Mapping[str, Mapping[str, float]],
    saved: Savings,
    share: float,
) -> Option:
    loss = alone[layer.name][pattern]
    return Option(
        pattern, loss, loss * share, saved.by_layer[layer.name][pattern], packed_bytes(layer, pattern)
    )


def _share(together: float, alone: Iterable[float]) -> float:
    total = sum(alone)
    return together / total if total else 1.0
