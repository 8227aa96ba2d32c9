"""The quantizer by which transformers loads and saves models with packed layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparseflow.checkpoints.forms import PACKED, Kind
from sparseflow.checkpoints.fp8_weights import declared_block
from sparseflow.errors import ArgumentError, CheckpointError, SparseFlowError
from sparseflow.integrations.transformers.plugin.config import METHOD, SparseFlowConfig
from sparseflow.integrations.transformers.plugin.fp8_tensors import Fp8Tensors
from sparseflow.integrations.transformers.plugin.packed_names import PackedNames, local_name
from sparseflow.integrations.transformers.plugin.quantizer_api import (
    AUTO_QUANTIZER_MAPPING,
    ConversionOps,
    HfQuantizer,
    WeightConverter,
)
from sparseflow.nn.linear import VALUES, SparseLinear, prepare
from sparseflow.nn.replace import densify, eligible, is_packable, pack, replace_module
from sparseflow.runtime import PackedWeight
from sparseflow.support.arguments import with_defaults

__all__ = ["SparseFlowConfig", "SparseFlowQuantizer"]

_PACKED_SHARE = 0.5625
"""The size of a packed 16-bit weight relative to the dense one."""


class SparseFlowQuantizer(HfQuantizer):  # type: ignore[misc]
    """Pack linear layers while they are loaded, or load packed ones; hold at most one dense weight."""

    requires_calibration = False
    quantization_config: SparseFlowConfig

    def __init__(self, quantization_config: SparseFlowConfig, **options: object) -> None:
        # A copy: the caller may use the configuration for several models, whose layers differ.
        super().__init__(copy.copy(quantization_config), **options)
        self.chosen: frozenset[str] = frozenset()
        self.shapes: dict[str, torch.Size] = {}
        self.saved_as: frozenset[str] = frozenset()
        self.failure: SparseFlowError | None = None
        source = self.quantization_config.source
        self.block = None if source is None else declared_block(source, "config.json")
        if source is not None:
            _require_uncast()

    @property
    def _reads_packed(self) -> bool:
        """Whether the folder has packed weights, rather than some to be packed."""
        return bool(self.pre_quantized) and self.quantization_config.source is None

    def validate_environment(self, *args: object, device_map: object = None, **others: object) -> None:
        """Refuse a device map that moves weights while the model runs.

        Raises:
            ArgumentError: the map offloads layers.
        """
        _require_resident(device_map)

    def _process_model_before_weight_loading(self, model: nn.Module, **others: object) -> None:
        config = self.quantization_config
        if not self._reads_packed:
            tied = getattr(model, "all_tied_weights_keys", {})
            names = {name.removesuffix(".weight") for pair in tied.items() for name in pair}
            skip = with_defaults(config.skip, config.skip_defaults)
            self.chosen = frozenset(eligible(model, skip, config.format)) - names
            return
        self.saved_as = frozenset(config.layers)
        for saved in config.layers:
            name = local_name(model, saved)
            linear = _linear(model, name)
            weight = _empty(linear, config.patterns.get(saved), name)
            self.shapes[name] = weight.shape
            self._replace(model, name, linear, weight)

    def param_needs_quantization(self, model: nn.Module, param_name: str, **others: object) -> bool:
        """Return whether a tensor of the checkpoint is packed while it is loaded."""
        return param_name.endswith(".weight") and param_name.removesuffix(".weight") in self.chosen

    def param_element_size(self, model: nn.Module, param_name: str, param: Tensor) -> float:
        """Return the bytes per entry that a parameter will take, from which transformers estimates memory."""
        share = _PACKED_SHARE if self.param_needs_quantization(model, param_name) else 1.0
        return param.element_size() * share

    def update_weight_conversions(self, weight_conversions: list[object], *model: nn.Module) -> list[object]:
        """Append the renaming of packed layers' values, after all other renaming."""
        found = [*super().update_weight_conversions(weight_conversions, *model)]
        if self.quantization_config.source is not None:
            _require_whole_weights(found)
            return [*found, Fp8Tensors(self)]
        return [*found, PackedNames(self.saved_as | self.shapes.keys())] if self._reads_packed else found

    def get_new_dtype(
        self, converter: object, param: object, dtype: torch.dtype | None
    ) -> torch.dtype | None:
        """Return the dtype that a tensor of the checkpoint is cast to when it is read; None: its own."""
        if isinstance(converter, Fp8Tensors):
            return None
        found: torch.dtype | None = super().get_new_dtype(converter, param, dtype)
        return found

    def get_quantize_ops(self) -> PackWeight:
        """Return the operation that packs a weight while it is loaded."""
        return PackWeight(self)

    def pack_layer(self, model: nn.Module, name: str, weight: Tensor) -> Tensor | None:
        """Pack a layer's weight and replace the layer; return the weight if the layer stays dense."""
        config = self.quantization_config
        packed = pack(weight, config.prune, name, config.format)
        if packed is None:
            return weight
        packed.settle()
        self._replace(model, name, _linear(model, name), packed)
        return None

    def _replace(self, model: nn.Module, name: str, linear: nn.Linear, weight: PackedWeight) -> None:
        config = self.quantization_config
        layer = SparseLinear(weight, linear.bias, policy=config.policy, memory=config.memory)
        if layer.bias is not None and _was_loaded(linear.bias):
            layer.bias._is_hf_initialized = True  # type: ignore[attr-defined]
        layer.is_loading = self._reads_packed
        for module in layer.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # else transformers would initialise it
        replace_module(model, name, layer)

    def _process_model_after_weight_loading(self, model: nn.Module, **others: object) -> nn.Module:
        _require_resident(getattr(model, "hf_device_map", None))  # what "auto" resolved to
        if self.failure is not None:
            raise self.failure
        for name, layer in _sparse_layers(model):
            if self._reads_packed:
                _settle(name, layer, self.shapes[name])
            if layer.bias is not None and not _was_loaded(layer.bias):
                raise _missing(f"{name}.bias")
        _forget_fp8(model)
        self.quantization_config.note_layers(model)
        model.requires_grad_(False)
        prepare(model)
        return model

    def is_serializable(self) -> bool:
        """Return whether ``save_pretrained`` works: packed checkpoints hold formats that round nothing."""
        kinds = self.quantization_config.patterns.values()
        return all(kind.pattern in PACKED.patterns for kind in kinds)

    @property
    def is_trainable(self) -> bool:
        """True: adapters over the layers can be trained, because gradients flow through them."""
        return True

    @property
    def is_compileable(self) -> bool:
        """True: ``torch.compile`` and ``generate`` with static caches work."""
        return True

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        densify(model)
        return model if dtype is None else model.to(dtype)


class PackWeight(ConversionOps):  # type: ignore[misc]
    """Pack one weight while transformers loads a checkpoint.

    transformers replaces any error raised here by a RuntimeError without details, so the quantizer keeps the
    first one and raises it after loading.
    """

    def __init__(self, quantizer: SparseFlowQuantizer) -> None:
        self.quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Tensor | list[Tensor]],
        *,
        model: nn.Module,
        full_layer_name: str,
        missing_keys: set[str],
        **others: object,
    ) -> dict[str, Tensor]:
        """Pack the weight into its layer; return the tensors that transformers is to load itself."""
        found = next(iter(input_dict.values()))
        weight = found[0] if isinstance(found, list) else found
        name = full_layer_name.removesuffix(".weight")
        try:
            dense = self.quantizer.pack_layer(model, name, weight)
        except SparseFlowError as error:
            self.quantizer.failure = self.quantizer.failure or error
            dense = None
        if dense is not None:
            return {full_layer_name: dense}
        missing_keys.discard(full_layer_name)
        return {}


def _require_uncast() -> None:
    """Refuse a transformers that casts what it reads before we see it: a missing scale would go unseen."""
    if not hasattr(HfQuantizer, "get_new_dtype"):
        raise ArgumentError(
            "from_pretrained(quantization_config=SparseFlowConfig(…))",
            "this version of transformers casts weights in fp8 before they are scaled",
            'install a newer one, or dequantise the folder: checkpoints.convert_checkpoint(…, "dense")',
        )


def _require_whole_weights(conversions: list[object]) -> None:
    """Refuse models whose weights transformers merges or splits while it loads them, such as experts."""
    if any(isinstance(found, WeightConverter) for found in conversions):
        raise CheckpointError(
            "checkpoint",
            "transformers merges some of its weights while loading, and they are in fp8",
            'dequantise the folder: checkpoints.convert_checkpoint(…, "dense")',
        )


def _forget_fp8(model: nn.Module) -> None:
    """Keep transformers from writing the tensors of fp8 again when it saves the model."""
    used = getattr(model, "_weight_conversions", None)
    if used is not None:
        model._weight_conversions = [each for each in used if not isinstance(each, Fp8Tensors)]  # type: ignore[assignment]


def _require_resident(device_map: object) -> None:
    places = {str(place) for place in device_map.values()} if isinstance(device_map, dict) else set()
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ArgumentError(
            "from_pretrained(device_map=…)",
            "packed layers can't be offloaded",
            "place all layers on GPUs, or all on the CPU",
        )


def _linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear) or not is_packable(module):
        raise CheckpointError(
            f"layer {name}",
            f"it is packed in the checkpoint, but {type(model).__name__} has no such nn.Linear to pack",
            f"convert it again with checkpoints.convert_checkpoint(…, skip=({name!r},))",
        )
    return module


def _empty(linear: nn.Linear, kind: Kind | None, name: str) -> PackedWeight:
    """Return the weight, without data, into which a saved layer is loaded; None as its kind is 2:4."""
    n, k = linear.out_features, linear.in_features
    if kind is not None and kind.in_features != k:
        raise CheckpointError(
            f"layer {name}",
            f"it has {kind.in_features} in features in the checkpoint; the model needs {k}",
            "use the checkpoint of this model",
        )
    return PackedWeight.empty(n, k, linear.weight.dtype, "meta", kind.pattern if kind else "2:4")


def _sparse_layers(model: nn.Module) -> Iterator[tuple[str, SparseLinear]]:
    yield from ((name, m) for name, m in model.named_modules() if isinstance(m, SparseLinear))


def _was_loaded(tensor: Tensor) -> bool:
    return getattr(tensor, "_is_hf_initialized", False)


def _missing(tensor: str) -> CheckpointError:
    return CheckpointError("checkpoint", f"it has no tensor {tensor}", "get a complete copy")


def _settle(name: str, layer: SparseLinear, shape: torch.Size) -> None:
    """Check the tensors that transformers loaded into a packed weight; convert them for the device."""
    weight = layer.weight
    for index, part in enumerate(weight.format.part_names):
        if not _was_loaded(getattr(weight, part)):
            raise _missing(f"{name}.{VALUES if index == 0 else f'weight.{part}'}")
    if weight.out_features != shape[0]:
        raise CheckpointError(
            f"layer {name}",
            f"its weight {list(shape)} has {weight.out_features} rows in the checkpoint",
            "use the checkpoint of this model",
        )
    layer.is_loading = False
    layer.weight = PackedWeight(weight.tensors, shape[1], weight.format.name, name=f"layer {name}")
    layer.weight.settle()


AUTO_QUANTIZER_MAPPING[METHOD] = SparseFlowQuantizer
