"""Measure the loss that pruning each layer causes, on calibration batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from sparseflow.errors import CalibrationError
from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.pruning.calibration import Calibration, enough_memory, moved, padding_mask
from sparseflow.pruning.linear_layers import Layer
from sparseflow.support.progress import Step

MEASURED_BATCHES = 8
"""Batches that a loss is measured on, at most: it is measured once for each layer and pattern."""
MEASURED_SEQUENCES, MEASURED_ROWS = 8, 512
"""Sequences of a batch that count, at most, and rows (tokens) of each, evenly sampled: those of the dense
model are kept. Further batches aren't run once all these are there."""

State = dict[str, Tensor]
"""A layer's parameters, on the CPU."""


def state_of(layer: Layer) -> State:
    """Return a copy of a layer's parameters, biases too, as some methods change them."""
    parameters = layer.module._parameters.items()
    return {name: p.detach().cpu().clone() for name, p in parameters if p is not None}


class Switchboard:
    """A model whose layers can each be dense, or pruned to one of several patterns.

    Args:
        calibration: the dense model and its batches.
        layers: those that can be pruned.

    Attributes:
        unit: of the losses.
    """

    def __init__(self, calibration: Calibration, layers: Sequence[Layer]) -> None:
        self._calibration = calibration
        self._layers = {layer.name: layer for layer in layers}
        self._dense = {layer.name: state_of(layer) for layer in layers}
        self._pruned: dict[str, dict[str, State]] = {}
        self._now: dict[str, str] | None = {}
        self._expected = self._outputs()
        self.unit = "nats a token" if self._expected[0].is_logits else "1 − cosine of the output"

    def keep(self, pattern: str, names: Sequence[str]) -> None:
        """Store the parameters of these layers, which were pruned to a pattern, and make the model dense."""
        self._pruned[pattern] = {name: state_of(self._layers[name]) for name in names}
        self.released()
        self.apply({})

    @torch.no_grad()
    def apply(self, patterns: Mapping[str, str]) -> None:
        """Set these layers to their parameters in a pattern that was kept, all others to the dense ones."""
        for name, layer in self._layers.items():
            pattern = patterns.get(name)
            if self._now is not None and self._now.get(name) == pattern:
                continue
            state = self._dense[name] if pattern is None else self._pruned[pattern][name]
            for parameter, values in state.items():
                layer.module.get_parameter(parameter).copy_(values)
        self._now = dict(patterns)

    def released(self) -> None:
        """Note that others modify the layers' parameters until the next `apply`."""
        self._now = None

    def loss_of(self, patterns: Mapping[str, str]) -> float:
        """Return the loss with these layers in their patterns and all others dense."""
        self.apply(patterns)
        return self.loss()

    def loss(self) -> float:
        """Return the loss with the model's current weights.

        For a model with logits the mean KL(dense ‖ pruned) of its tokens in nats, which is what pruning adds
        to the cross entropy of text drawn from the dense model; else the mean of 1 − cosine between rows of
        the two outputs.

        Raises:
            CalibrationError: the outputs are not finite.
        """
        pairs = list(zip(self._expected, self._outputs(), strict=True))
        total = sum(float(dense.losses(found).double().sum()) for dense, found in pairs)
        mean = total / sum(len(dense.rows) for dense, _ in pairs)
        if not math.isfinite(mean):
            raise CalibrationError(
                "the pruned model's outputs", "hold NaN or Inf", "prune in bfloat16 or float32, not float16"
            )
        return max(mean, 0.0)

    def alone(self, step: Step) -> dict[str, dict[str, float]]:
        """Return for each layer and pattern the loss with only that layer pruned, to that pattern."""
        found: dict[str, dict[str, float]] = {}
        total = sum(map(len, self._pruned.values()))
        for pattern, states in self._pruned.items():
            for name in states:
                found.setdefault(name, {})[pattern] = self.loss_of({name: pattern})
                step(sum(map(len, found.values())), total, f"{name} {pattern}")
        return found

    @torch.no_grad()
    def _outputs(self) -> list[_Output]:
        model = self._calibration.model
        device = next(model.parameters()).device
        found = []
        with without_cache(model), enough_memory(device):
            for call in self._calibration.calls[:MEASURED_BATCHES]:
                args, kwargs = moved(call, device)
                found.append(_Output.of(model(*args, **kwargs), padding_mask(kwargs)))
                if sum(len(one.rows) for one in found) >= MEASURED_SEQUENCES * MEASURED_ROWS:
                    break
        return found


@dataclass(frozen=True)
class _Output:
    """Sampled rows ``[rows, features]`` of one batch's output."""

    rows: Tensor
    is_logits: bool

    @classmethod
    def of(cls, output: object, mask: Tensor | None) -> _Output:
        """Sample rows of an output, skipping padding."""
        logits = getattr(output, "logits", None)
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        values = logits if logits is not None else getattr(output, "last_hidden_state", tensors[0])
        sequences = max(1, len(values)) if values.dim() > 2 else 1
        if mask is not None and mask.shape == values.shape[:-1]:
            values = values[mask.bool()]
        rows = values.reshape(-1, values.shape[-1])
        most = MEASURED_ROWS * min(sequences, MEASURED_SEQUENCES)
        return cls(rows[:: -(-len(rows) // most)].clone(), logits is not None)

    def losses(self, found: _Output) -> Tensor:
        """Return the loss of each row, ``[rows]``; some at a time, as all logits in float32 are large."""
        pieces = zip(
            torch.split(self.rows, MEASURED_ROWS), torch.split(found.rows, MEASURED_ROWS), strict=True
        )
        return torch.cat([self._losses(dense.float(), other.float()) for dense, other in pieces])

    def _losses(self, dense: Tensor, other: Tensor) -> Tensor:
        if not self.is_logits:
            return 1 - F.cosine_similarity(dense, other)
        return F.kl_div(other.log_softmax(-1), dense.log_softmax(-1), reduction="none", log_target=True).sum(
            -1
        )
