"""Load weights of folders in fp8: their values, scales and bitmasks are collected, dequantised and packed.

transformers hands each tensor of a folder to the parameter that a converter names for it. Here all tensors of
a weight, under the names of every writer (`checkpoints.fp8_weights`), go to ``….weight``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from sparseflow.checkpoints.fp8_weights import dequantized, from_mask
from sparseflow.errors import CheckpointError, SparseFlowError
from sparseflow.integrations.transformers.plugin.quantizer_api import ConversionOps, WeightConverter
from sparseflow.runtime.fp8 import E4M3

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.plugin.quantizer import SparseFlowQuantizer

_WEIGHT = ".weight"
_VALUES = (_WEIGHT, "._weight_qdata")
_SCALES = (".weight_scale_inv", ".weight_scale", "._weight_scale")
_KEPT, _MASK = ".compressed", ".bitmask"
_PASSED_OVER = (".shape", ".input_scale", ".activation_scale")
_ENDINGS = (*_VALUES, *_SCALES, _KEPT, _MASK, *_PASSED_OVER)

_COPY = "get a complete copy of the checkpoint"


class Fp8Tensors(WeightConverter):  # type: ignore[misc]  # transformers is not typed
    """Collect the tensors of a weight, whatever they are called.

    Args:
        quantizer: that loads the folder.
    """

    __slots__ = ("_quantizer",)

    def __init__(self, quantizer: SparseFlowQuantizer) -> None:
        super().__init__(list(_ENDINGS), _WEIGHT, [ReadFp8(quantizer)])
        self._quantizer = quantizer

    def __deepcopy__(self, memo: object) -> Fp8Tensors:
        """Return a new one for the next weight: transformers copies converters, but not their quantizer."""
        return Fp8Tensors(self._quantizer)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """Return the weight's name for a tensor of it, and the ending of the tensor's name or None."""
        for ending in _ENDINGS:
            if source_key.endswith(ending):
                return source_key.removesuffix(ending) + _WEIGHT, ending
        return source_key, None


class ReadFp8(ConversionOps):  # type: ignore[misc]
    """Dequantise one weight and pack it, or pass on a tensor that isn't in fp8.

    Errors are kept for after loading, as those of `PackWeight` are.
    """

    def __init__(self, quantizer: SparseFlowQuantizer) -> None:
        self.quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, list[Tensor]],
        *,
        model: nn.Module,
        full_layer_name: str,
        missing_keys: set[str],
        **others: object,
    ) -> dict[str, Tensor]:
        """Return the tensors that transformers is to load itself: the weight of a layer that stays dense."""
        tensors = {ending: found[0] for ending, found in input_dict.items()}
        name = full_layer_name.removesuffix(_WEIGHT)
        try:
            weight: Tensor | None = self._read(tensors, model, name)
        except SparseFlowError as error:
            self.quantizer.failure = self.quantizer.failure or error
            weight = None
        if weight is not None:
            return {full_layer_name: weight}
        missing_keys.discard(full_layer_name)
        return {}

    def _read(self, tensors: dict[str, Tensor], model: nn.Module, name: str) -> Tensor | None:
        """Return a weight that stays dense; None for one that was packed."""
        wanted: Tensor = getattr(model.get_submodule(name), "weight")  # noqa: B009  # no Module to mypy
        weight = self._dense(tensors, wanted, name)
        if name not in self.quantizer.chosen:
            return weight
        if weight.shape != wanted.shape:
            raise CheckpointError(
                f"layer {name}",
                f"its weight is {list(weight.shape)} in the checkpoint; the model needs {list(wanted.shape)}",
                "use the checkpoint of this model",
            )
        return self.quantizer.pack_layer(model, name, weight)

    def _dense(self, tensors: dict[str, Tensor], wanted: Tensor, name: str) -> Tensor:
        scale = next((tensors[ending] for ending in _SCALES if ending in tensors), None)
        values = next((tensors[ending] for ending in (*_VALUES, _KEPT) if ending in tensors), None)
        if values is None:
            raise CheckpointError("checkpoint", f"it has scales, but no weight, of {name}", _COPY)
        if _KEPT in tensors:
            if _MASK not in tensors:
                raise CheckpointError("checkpoint", f"it has no tensor {name}{_MASK}", _COPY)
            values = from_mask(values, tensors[_MASK], name)
        if scale is not None:
            return dequantized(values, scale, self.quantizer.block, wanted.dtype, f"layer {name}")
        if values.dtype == E4M3:
            raise CheckpointError("checkpoint", f"it has no scale of {name}, whose weight is in fp8", _COPY)
        return values.to(wanted.dtype)
