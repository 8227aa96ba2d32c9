"""The quantization config: which linear layers of a model are ours, and how their weights come."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase

from sparseflow.checkpoints.forms import PATTERNS_KEY
from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.vllm.engine_versions import warn_if_untested
from sparseflow.integrations.vllm.packed_layers import (
    FP8,
    FP8_NAMES,
    PackedLayers,
    is_bitmask,
    is_fp8,
)
from sparseflow.integrations.vllm.serving_options import KEY, ServingOptions
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    from vllm.model_executor.models.utils import WeightsMapper

    from sparseflow.contextual.activations.activation_thresholds import LayerThreshold
    from sparseflow.integrations.vllm.part_loaders import Parts
    from sparseflow.integrations.vllm.served_layers import ServedLayers

METHOD = "sparseflow"
"""The name of the method: ``quant_method`` in config.json, and what ``--quantization`` takes."""

_IN_FOLDERS = ("quant_method", "format_version", "layers", PATTERNS_KEY)
"""What stands beside the options in config.json of a packed folder."""

_EXPERTS = "experts stay dense: there are no 2:4 kernels for vLLM's fused experts"


class SparseFlowEngineConfig(QuantizationConfig):  # type: ignore[misc]  # vLLM is not typed here
    """The method ``sparseflow`` for one model.

    Args:
        options: from config.json; those of ``--additional-config`` go before.
        packed: the layers that are packed in the checkpoint.
    """

    def __init__(self, options: ServingOptions | None = None, packed: PackedLayers | None = None) -> None:
        super().__init__()
        self.packed = packed or PackedLayers()
        self._options = options or ServingOptions()
        self._layers: ServedLayers | None = None
        self._thresholds: Mapping[str, LayerThreshold] | None = None

    @classmethod
    def get_name(cls) -> str:
        """Return the name of the method."""
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """Return the dtypes that kernels exist for."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Return that of Ampere, the first with sparse tensor cores."""
        return 80

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Return none: all stands in config.json."""
        return []

    @classmethod
    def from_config(cls, config: Document) -> SparseFlowEngineConfig:
        """Read the ``quantization_config`` of a config.json.

        Raises:
            ArgumentError: an option is unknown or has a wrong value.
            CheckpointError: what it says of packed layers is malformed, or of another version.
        """
        packed = PackedLayers.of(config)
        if is_bitmask(config) or is_fp8(config):
            return cls(packed=packed)
        options = {name: value for name, value in config.items() if name not in _IN_FOLDERS}
        return cls(ServingOptions().updated(options, "quantization_config"), packed)

    @classmethod
    def override_quantization_method(
        cls, hf_quant_cfg: Document, user_quant: str | None, hf_config: object = None
    ) -> str | None:
        """Return the method for what it claims; None for all else.

        That is a ``sparse-24-bitmask`` checkpoint, which vLLM refuses, and where the user asks for the method
        one of fp8.
        """
        declared = hf_quant_cfg or {}
        asked = user_quant == METHOD and is_fp8(declared)
        return METHOD if asked or (user_quant in (None, METHOD) and is_bitmask(declared)) else None

    def get_cache_scale_mapper(self) -> WeightsMapper:
        """Return vLLM's renaming of tensors, and ours of those that parameters are named otherwise for.

        Parameters have no dots, and those of fp8 weights one name, whoever wrote the checkpoint.
        """
        from vllm.model_executor.models.utils import WeightsMapper

        found = super().get_cache_scale_mapper()
        ours = FP8_NAMES if self.packed.form == FP8 else {".weight.positions": ".positions"}
        return found | WeightsMapper(orig_to_new_suffix=ours)

    def apply_vllm_mapper(self, hf_to_vllm_mapper: WeightsMapper) -> None:
        """Learn the names that vLLM has for packed layers; parts of merged ones keep theirs."""
        renaming = dataclasses.replace(hf_to_vllm_mapper, orig_to_new_stacked={})
        kinds = renaming.apply_dict(self.packed.kinds)
        self.packed.rename(renaming.apply_list(sorted(self.packed.targets)), kinds)

    @property
    def layers(self) -> ServedLayers:
        """All linear layers of the engine, and how they run."""
        if self._layers is None:
            import vllm
            from vllm.config import get_current_vllm_config

            from sparseflow.integrations.vllm.served_layers import ServedLayers

            warn_if_untested(str(vllm.__version__))
            self._layers = ServedLayers(self._updated(get_current_vllm_config().additional_config))
        return self._layers

    def _updated(self, additional: object) -> ServingOptions:
        given = additional.get(KEY, {}) if isinstance(additional, Mapping) else {}
        if not isinstance(given, Mapping):
            raise ArgumentError(f"--additional-config {KEY}", "its options must be an object")
        return self._options.updated(given, f"--additional-config {KEY}")

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Return what loads and runs a layer; None leaves it to vLLM.

        Args:
            layer: of vLLM.
            prefix: its name.

        Raises:
            CheckpointError: it is packed or in fp8 in the checkpoint, and is no linear layer of vLLM.
        """
        from vllm.model_executor.layers.linear import LinearBase

        if isinstance(layer, LinearBase):
            return self._linear_method(layer, prefix)
        if self.packed.form != "dense" and prefix in self.packed.targets:
            raise CheckpointError(
                f"layer {prefix}",
                f"it is packed in the checkpoint, and vLLM's {type(layer).__name__} takes dense ones only",
                "save the model again with skip_defaults=True, or with the layer in skip",
            )
        if "Experts" in type(layer).__name__ or "MoE" in type(layer).__name__:
            if self.packed.form == FP8:
                raise CheckpointError(
                    f"layer {prefix}",
                    "its experts are fp8 in the checkpoint; ours stay dense, and are read in 16 or 32 bits",
                    "serve it without --quantization sparseflow, or dequantise it: convert_checkpoint",
                )
            self.layers.stays_dense(prefix, _EXPERTS)
        return None

    def _linear_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase:
        from vllm.model_executor.layers.linear import UnquantizedLinearMethod

        from sparseflow.integrations.vllm.linear_method import SparseFlowLinearMethod
        from sparseflow.integrations.vllm.part_loaders import Parts

        parts = self._parts(prefix)
        if not any(map(self.packed.holds, parts)) and (found := self._by_columns(prefix, Parts(parts))):
            return found
        reason = None if any(map(self.packed.holds, parts)) else self._why_dense(parts)
        if reason is not None:
            self.layers.stays_dense(prefix, reason)
            return UnquantizedLinearMethod()
        return SparseFlowLinearMethod(prefix, Parts(parts), self.packed, self.layers)

    def _by_columns(self, prefix: str, parts: Parts) -> QuantizeMethodBase | None:
        """Return what leaves out inputs of a layer; None if no thresholds are for it, or for this engine."""
        from vllm.config import get_current_vllm_config

        from sparseflow.integrations.vllm.column_method import (
            ColumnLinearMethod,
            threshold_of,
            thresholds_of,
            why_not_columns,
        )

        config = get_current_vllm_config()
        if self._thresholds is None:
            self._thresholds = thresholds_of(config, self.layers.options.thresholds) or {}
        threshold = threshold_of(self._thresholds, parts)
        if threshold is None or not threshold.threshold:
            return None
        self.layers.no_columns = why_not_columns(config)
        if self.layers.no_columns:
            return None
        return ColumnLinearMethod(prefix, parts, threshold, self.layers)

    def _parts(self, prefix: str) -> tuple[str, ...]:
        parent, _, last = prefix.rpartition(".")
        names: Any = self.packed_modules_mapping.get(last, [last])
        return tuple(f"{parent}.{name}" if parent else str(name) for name in names)

    def _why_dense(self, parts: tuple[str, ...]) -> str | None:
        """Return why a layer none of whose parts is packed stays dense; None if its weight decides."""
        if self.packed.form != "dense":
            return "it is dense in the checkpoint, others are packed"
        skipped = {
            part: pattern
            for part in parts
            for pattern in self.layers.options.skipped
            if fnmatchcase(part, pattern)
        }
        if not skipped:
            return None
        part, pattern = next(iter(skipped.items()))
        whole = len(skipped) == len(parts)
        return f"skip has {pattern!r}" if whole else f"skip has {pattern!r}, and {part} is a part of it"
