"""Prunes single layers by one method and keeps account of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from sparseflow.api.progress import Step
from sparseflow.api.weights import relative_difference
from sparseflow.errors import WeightError
from sparseflow.pruning.layers import Layer
from sparseflow.pruning.report import PrunedLayer
from sparseflow.pruning.sparsegpt import sparsegpt
from sparseflow.pruning.statistics import Statistics, watching
from sparseflow.pruning.wanda import wanda
from sparseflow.runtime import checks, prune_24

Method = Literal["magnitude", "wanda", "sparsegpt"]

_UNREACHED = "no calibration batch reached it"


class Pruner:
    """Prunes layers in place and remembers what became of each.

    Args:
        method: how.
        damping: SparseGPT's.
        block: SparseGPT's.
        total: how many layers will come.
        step: told after each layer.
    """

    def __init__(self, method: Method, damping: float, block: int, total: int, step: Step) -> None:
        self._method = method
        self._damping = damping
        self._block = block
        self._total = total
        self._step = step
        self._outcomes: dict[str, PrunedLayer] = {}

    def prune_uncalibrated(self, layer: Layer) -> None:
        """Prune a layer by magnitude."""
        self._replace(layer, prune_24(layer.weight, name=f"layer {layer.name}"), None)

    def prune_on(self, layers: Sequence[Layer], run: Callable[[], None], calls: int) -> None:
        """Prune layers from the inputs that reach them while `run` runs.

        Args:
            layers: they see inputs that none of them has changed yet.
            run: runs what holds the layers on every batch.
            calls: the number of batches.

        Raises:
            CalibrationError: a layer's inputs hold NaN or Inf, or can't be calibrated on; none of the layers
                was pruned in the former case.
            WeightError: SparseGPT's update left the range of the weight's dtype.
        """
        statistics = {
            layer.name: Statistics(layer, gram=self._method == "sparsegpt", calls=calls) for layer in layers
        }
        with watching(layers, lambda layer, x: statistics[layer.name].add(x)):
            run()
        for gathered in statistics.values():
            gathered.require_finite()
        for layer in layers:
            gathered = statistics.pop(layer.name)
            if gathered.rows:
                self._replace(layer, self._pruned(layer, gathered), gathered)
            else:
                self._note(_dense(layer, _UNREACHED))

    def outcome(self, layer: Layer) -> PrunedLayer:
        """What became of a layer."""
        return self._outcomes.get(layer.name) or _dense(layer, layer.dense or _UNREACHED)

    def _pruned(self, layer: Layer, gathered: Statistics) -> Tensor:
        weight = layer.weight
        if self._method == "wanda":
            return wanda(weight, gathered.norms())
        if self._method == "magnitude":
            return prune_24(weight, name=f"layer {layer.name}")
        gram = gathered.take_gram()
        return sparsegpt(weight, gram, damping=self._damping, block=self._block, name=layer.name)

    def _replace(self, layer: Layer, pruned: Tensor, gathered: Statistics | None) -> None:
        try:
            checks.require_finite(pruned, f"layer {layer.name}, pruned")
        except WeightError as error:
            remedy = "raise damping, or prune the model in bfloat16 or float32"
            raise WeightError(error.subject, error.rule, remedy) from None
        weight = layer.weight
        rows = gathered.rows if gathered else 0
        lost = relative_difference(weight, pruned)
        output = gathered.output_error(weight, pruned) if gathered else None
        self._note(PrunedLayer(layer.name, *layer.shape, self._method, rows, lost, output, ""))
        layer.write(pruned)

    def _note(self, entry: PrunedLayer) -> None:
        self._outcomes[entry.name] = entry
        self._step(len(self._outcomes), self._total, entry.name)


def _dense(layer: Layer, reason: str) -> PrunedLayer:
    return PrunedLayer(layer.name, *layer.shape, None, 0, None, None, reason)
