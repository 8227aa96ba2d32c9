"""Layers of vLLM that leave out inputs near zero: dense weights, and thresholds from the model's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import (
    LinearMethodBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)

from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold
from sparseflow.contextual.activations.column_policies import (
    ROWS,
    UNMEASURED,
    ColumnPolicy,
    ColumnShape,
    column_policy,
)
from sparseflow.errors import CheckpointError
from sparseflow.integrations.vllm.checkpoint_forms import DenseForm
from sparseflow.integrations.vllm.part_loaders import Loader, Parts
from sparseflow.integrations.vllm.served_layers import ServedLayers
from sparseflow.nn.linear import VALUES
from sparseflow.runtime.contextual.column import column_linear

THRESHOLDS = "sparseflow_thresholds.json"
"""The file of a model's folder that `sparseflow calibrate` wrote."""

_TURNED = "weight_turned"
"""The parameter for the weight stored ``[K, N]``."""

_PROCESSED = "_already_called_process_weights_after_loading"


def thresholds_of(config: VllmConfig, path: str | None) -> ActivationThresholds | None:
    """Return the thresholds that an option names, or those of the model's folder; None if there are none.

    Raises:
        ArgumentError: the file can't be read.
    """
    if path is not None:
        return ActivationThresholds.load(path)
    model = config.model_config
    file = Path(model.model) / THRESHOLDS if model is not None else None
    return ActivationThresholds.load(file) if file is not None and file.is_file() else None


def threshold_of(found: Mapping[str, LayerThreshold], parts: Parts) -> LayerThreshold | None:
    """Return the threshold of a merged layer, the least of its parts'; None if one of them has none."""
    own = [found[name] for name in parts.names if name in found]
    return min(own, key=lambda each: each.threshold) if len(own) == len(parts.names) else None


def why_not_columns(config: VllmConfig) -> str:
    """Return why an engine leaves no inputs out; empty if it does.

    Steps of many sequences have hardly any in common. vLLM's LoRA looks for weights by names that it knows.
    """
    if config.lora_config is not None:
        return "LoRA is on"
    count = config.scheduler_config.max_num_seqs
    if count <= ROWS[-1]:
        return ""
    return f"thresholds pay for up to {ROWS[-1]} sequences, and the engine has up to {count}: --max-num-seqs"


@register_weight_loader_v2_supported_method
class ColumnLinearMethod(LinearMethodBase):  # type: ignore[misc]  # vLLM is not typed here
    """Load a dense weight, store it K outermost, and leave out inputs below a threshold for few rows.

    Args:
        name: of the layer in vLLM.
        parts: its names in the checkpoint.
        threshold: of its input.
        layers: all layers of the engine.

    Attributes:
        m_max: for how many rows inputs are left out; 0 before it is decided, and where the layer is dense.
    """

    uses_meta_device = True

    def __init__(self, name: str, parts: Parts, threshold: LayerThreshold, layers: ServedLayers) -> None:
        self.name, self._parts, self._threshold, self._layers = name, parts, threshold, layers
        self._form: DenseForm | None = None
        self._dense: LinearMethodBase | None = None
        self.m_max = 0

    @property
    def threshold(self) -> float:
        """The size of the inputs that are left out below it."""
        return self._threshold.threshold

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Loader,
    ) -> None:
        """Create the weight; the arguments are those of every linear method.

        Raises:
            CheckpointError: the thresholds are those of a model of other shapes.
        """
        self._parts.count = len(output_partition_sizes)
        self._require_fit(input_size)
        n, k = sum(output_partition_sizes), input_size_per_partition
        self._form = DenseForm(self._parts, n, k, input_size, params_dtype)
        self._layers.expect(self.name, layer)
        self._form.create(layer, extra_weight_attrs["weight_loader"])

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Turn the weight once it is loaded, and measure for how many rows leaving inputs out pays."""
        assert self._form is not None, "created before it is loaded"
        if getattr(layer, _PROCESSED, False):
            return
        setattr(layer, _PROCESSED, True)
        weight = self._form.take(layer, self.name)
        loaded_again = self._dense is not None or self.m_max > 0
        if not loaded_again:
            self._decide(weight)
        if self._dense is not None:
            layer.register_parameter(VALUES, nn.Parameter(weight, requires_grad=False))
            self._dense.process_weights_after_loading(layer)
        else:
            layer.register_parameter(_TURNED, nn.Parameter(weight.t().contiguous(), requires_grad=False))
        if not loaded_again:
            self._layers.settled(self.name)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x' · Wᵀ + bias``, ``[…, N]``; x' is x ``[…, K]`` for more than `m_max` rows."""
        if self._dense is not None:
            dense: Tensor = self._dense.apply(layer, x, bias)
            return dense
        weight = getattr(layer, _TURNED)
        y: Tensor = column_linear(x, weight, self.threshold, bias, None, None, self.m_max)
        return y

    def _decide(self, weight: Tensor) -> None:
        policy = self._policy(weight)
        self.m_max = policy.m_max
        if policy.m_max:
            self._layers.by_columns[self.name] = (self.threshold, policy)
            return
        self._dense = UnquantizedLinearMethod()
        self._layers.stays_dense(self.name, policy.why())

    def _policy(self, weight: Tensor) -> ColumnPolicy:
        if self._layers.options.policy == "sparse":
            return UNMEASURED
        n, k = weight.shape
        percent = round(100 * self._threshold.rate)
        return column_policy(ColumnShape(n, k, weight.dtype, weight.device, percent))

    def _require_fit(self, in_features: int) -> None:
        width = self._threshold.shape[1]
        if width != in_features:
            raise CheckpointError(
                f"layer {self.name}",
                f"its threshold is for {width} in features, and it has {in_features}",
                f"calibrate this model: sparseflow calibrate MODEL MODEL/{THRESHOLDS}",
            )
