"""Measure the loss that pruning each layer causes, on calibration batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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
"""Batches that a loss is measured on, at most: it is measured once for each layer."""
MEASURED_ROWS = 512
"""Rows (tokens) of each of them, at most, evenly sampled: those of the dense model are kept."""

State = dict[str, Tensor]
"""A layer's parameters, on the CPU."""


def state_of(layer: Layer) -> State:
    """Return a copy of a layer's parameters, biases too, as some methods change them."""
    parameters = layer.module._parameters.items()
    return {name: p.detach().cpu().clone() for name, p in parameters if p is not None}


class Switchboard:
    """A model whose layers can each be dense or pruned.

    Args:
        calibration: the model and its batches.
        layers: the pruned layers, whose pruned weights the model holds.
        dense: their original parameters, by name.

    Attributes:
        unit: of the losses.
    """

    def __init__(self, calibration: Calibration, layers: Sequence[Layer], dense: Mapping[str, State]) -> None:
        self._calibration = calibration
        self._layers = {layer.name: layer for layer in layers}
        self._dense = dense
        self._pruned = {layer.name: state_of(layer) for layer in layers}
        self._now: set[str] | None = None
        self.prune_only(())
        self._expected = self._outputs()
        self.unit = "nats a token" if self._expected[0].is_logits else "1 − cosine of the output"

    @torch.no_grad()
    def prune_only(self, names: Collection[str]) -> None:
        """Set these layers to their pruned parameters, all others to the dense ones."""
        changed = self._layers if self._now is None else self._now.symmetric_difference(names)
        for name in changed:
            state = self._pruned[name] if name in names else self._dense[name]
            for parameter, values in state.items():
                self._layers[name].module.get_parameter(parameter).copy_(values)
        self._now = set(names)

    def released(self) -> None:
        """Note that others modify the layers' parameters until the next `prune_only`."""
        self._now = None

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

    def alone(self, step: Step) -> dict[str, float]:
        """Return for each layer the loss with only that layer pruned."""
        found = {}
        for done, name in enumerate(self._layers, start=1):
            self.prune_only([name])
            found[name] = self.loss()
            step(done, len(self._layers), name)
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
        if mask is not None and mask.shape == values.shape[:-1]:
            values = values[mask.bool()]
        rows = values.reshape(-1, values.shape[-1])
        return cls(rows[:: -(-len(rows) // MEASURED_ROWS)].clone(), logits is not None)

    def losses(self, found: _Output) -> Tensor:
        """Return the loss of each row, ``[rows]``."""
        dense, other = self.rows.float(), found.rows.float()
        if not self.is_logits:
            return 1 - F.cosine_similarity(dense, other)
        return F.kl_div(other.log_softmax(-1), dense.log_softmax(-1), reduction="none", log_target=True).sum(
            -1
        )
