"""Prune single layers by one method and record the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparseflow.errors import WeightError
from sparseflow.pruning.blocks import Twin, by_input, permute_block
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.methods import METHODS, LayerInputs
from sparseflow.pruning.prune_options import PruneOptions
from sparseflow.pruning.prune_report import PrunedLayer
from sparseflow.pruning.reconstruction import LeastSquares
from sparseflow.pruning.resuming import Checkpoint
from sparseflow.pruning.stacks import Visit
from sparseflow.pruning.statistics import Gathering, Statistics, gather
from sparseflow.runtime import checks
from sparseflow.runtime.pattern import Pattern, relative_difference
from sparseflow.support.progress import Step

_UNREACHED = "no calibration batch reached it"


class Pruner:
    """Prune layers in place and record each outcome.

    Args:
        options: how.
        total: the number of layers.
        step: called after each layer.
        free: layers that may be permuted, pruned or not.
        checkpoint: saves and restores finished units.
    """

    def __init__(
        self,
        options: PruneOptions,
        total: int,
        step: Step,
        free: Sequence[Layer] = (),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._options = options
        self._total = total
        self._step = step
        self._free = free
        self._checkpoint = checkpoint
        self._outcomes: dict[str, PrunedLayer] = {}
        self.undrifted: list[str] = []
        """Layers reconstructed without the dense model's inputs, whose rows were others."""

    def prune_uncalibrated(self, layer: Layer) -> None:
        """Prune a layer by the method if that needs no inputs, else by magnitude."""
        options = self._options
        method = options.method if METHODS[options.method].needs == "nothing" else "magnitude"
        before = layer.weight.clone()
        inputs = LayerInputs(layer.name, None, None, options.kept(layer.name), options.damping, options.block)
        self._write(layer, METHODS[method].prune(before, inputs))
        self._note(_entry(layer, before, None, method))

    def prune_on(self, layers: Sequence[Layer], run: Callable[[int], object], calls: int) -> None:
        """Prune layers from the inputs that reach them while `run` runs each batch.

        Args:
            layers: layers whose inputs don't depend on each other.
            run: runs what holds the layers on the batch of an index.
            calls: the number of batches.

        Raises:
            CalibrationError: a layer's inputs hold NaN or Inf, or can't be calibrated on; none of the layers
                was pruned in the former case.
            WeightError: SparseGPT's update left the range of the weight's dtype.
        """
        parameters = {f"{layer.name}.weight": layer.module.get_parameter("weight") for layer in layers}

        def work() -> None:
            self._prune_group(layers, self._gathering(run, calls))

        self._once(parameters, layers, work)

    def prune_block(self, visit: Visit, layers: Sequence[Layer], seed: int) -> None:
        """Prune the layers of one block; permute and reconstruct as the options say.

        Args:
            visit: the block, whose inputs come from the already pruned blocks before it.
            layers: those in it to prune.
            seed: of its random choices.

        Raises:
            CalibrationError, WeightError: as `prune_on`.
        """

        def work() -> None:
            permuted: Sequence[str] = ()
            if self._options.permute:
                permuted = permute_block(visit, layers, self._free, Pattern.of(self._options.named))
            if self._options.reconstruct is None:
                self._prune_group(layers, self._gathering(visit.call, len(visit.frames)), permuted)
            else:
                self._reconstruct(visit, layers, seed, permuted)

        self._once(dict(visit.block.named_parameters()), layers, work)

    def outcome(self, layer: Layer) -> PrunedLayer:
        """Return the report entry of a layer."""
        return self._outcomes.get(layer.name) or _dense(layer, layer.dense or _UNREACHED)

    def _once(
        self, parameters: Mapping[str, nn.Parameter], layers: Iterable[Layer], work: Callable[[], None]
    ) -> None:
        """Do `work` and save the result, or restore it from the checkpoint."""
        done = self._checkpoint.resume(parameters) if self._checkpoint else None
        if done:
            for entry in done:
                self._note(entry)
            return
        work()
        if self._checkpoint:
            self._checkpoint.save(parameters, [self.outcome(layer) for layer in layers])

    def _gathering(self, run: Callable[[int], object], calls: int) -> Callable[[Sequence[Layer]], Gathering]:
        return lambda layers: gather(layers, run, calls, gram=self._options.gram)

    def _reconstruct(self, visit: Visit, layers: Sequence[Layer], seed: int, permuted: Sequence[str]) -> None:
        twin = Twin(visit, layers)
        gathered: Gathering = {}
        for group in by_input(visit, layers):
            gathered |= self._prune_group(group, twin.gather, permuted)
        if not twin.refine([layer for layer in layers if layer.name in gathered], self._options, seed):
            return
        for layer in layers:
            if layer.name in gathered:
                before = twin.layers[layer.name].weight
                self._note(_entry(layer, before, gathered[layer.name], self._options.method, permuted))

    def _prune_group(
        self,
        layers: Sequence[Layer],
        gather: Callable[[Sequence[Layer]], Gathering],
        permuted: Sequence[str] = (),
    ) -> Gathering:
        """Prune layers together, or one by one if their statistics exceed the device's memory."""
        try:
            return self._prune_at_once(layers, gather(layers), permuted)
        except torch.OutOfMemoryError:
            if len(layers) == 1:
                raise
        torch.cuda.empty_cache()
        pruned: Gathering = {}
        for layer in [layer for layer in layers if layer.name not in self._outcomes]:
            pruned |= self._prune_group([layer], gather, permuted)
        return pruned

    def _prune_at_once(
        self, layers: Sequence[Layer], statistics: Gathering, permuted: Sequence[str]
    ) -> Gathering:
        for gathered in statistics.values():
            gathered.require_finite()
        reached = {}
        for layer in layers:
            gathered = statistics[layer.name]
            if gathered.rows:
                before = layer.weight.clone()
                self._write(layer, self._pruned(layer, gathered))
                self._note(_entry(layer, before, gathered, self._options.method, permuted))
                reached[layer.name] = gathered
            elif self._options.unreached == "magnitude":
                self.prune_uncalibrated(layer)
            else:
                self._note(_dense(layer, _UNREACHED))
        return reached

    def _pruned(self, layer: Layer, gathered: Statistics) -> Tensor:
        if self._options.reconstruct is None:
            gram = gathered.take_gram() if self._options.gram else None
            return self._masked(layer, layer.weight, gathered, gram)
        cross = gathered.take_cross()
        if cross is None:
            self.undrifted.append(layer.name)
        gram = gathered.take_gram()
        problem = LeastSquares(layer.weight, gram, cross, gathered.rows, self._options.damping, layer.name)
        return problem.on_support(self._masked(layer, problem.dense(), gathered, gram)).to(layer.weight.dtype)

    def _masked(self, layer: Layer, weight: Tensor, gathered: Statistics, gram: Tensor | None) -> Tensor:
        """Return `weight` masked to the pattern by the method."""
        options = self._options
        kept = options.kept(layer.name)
        inputs = LayerInputs(layer.name, gathered, gram, kept, options.damping, options.block)
        return METHODS[options.method].prune(weight, inputs)

    def _write(self, layer: Layer, pruned: Tensor) -> None:
        try:
            checks.require_finite(pruned, f"layer {layer.name}, pruned")
        except WeightError as error:
            remedy = "raise damping, or prune the model in bfloat16 or float32"
            raise WeightError(error.subject, error.rule, remedy) from None
        layer.write(pruned)

    def _note(self, entry: PrunedLayer) -> None:
        if entry.method is not None:
            entry = replace(entry, pattern=self._options.kept(entry.name).name)
        self._outcomes[entry.name] = entry
        self._step(len(self._outcomes), self._total, entry.name)


def _entry(
    layer: Layer,
    before: Tensor,
    gathered: Statistics | None,
    method: str,
    permuted: Sequence[str] = (),
) -> PrunedLayer:
    rows = gathered.rows if gathered else 0
    after = layer.weight
    lost = relative_difference(before, after)
    output = gathered.output_error(before, after) if gathered else None
    return PrunedLayer(
        layer.name, *layer.shape, method, rows, lost, output, "", permuted=layer.name in permuted
    )


def _dense(layer: Layer, reason: str) -> PrunedLayer:
    return PrunedLayer(layer.name, *layer.shape, None, 0, None, None, reason)
