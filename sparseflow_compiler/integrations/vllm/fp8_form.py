"""The form of checkpoints whose weights are fp8 already: e4m3 ``weight`` and ``weight_scale``.

Values that are 2:4 keep their bits and their scales: nothing is rounded a second time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm.model_executor.parameter import ChannelQuantScaleParameter, ModelWeightParameter

from sparseflow.errors import CheckpointError
from sparseflow.integrations.vllm.checkpoint_forms import Form, Size, is_dummy, taken, unloaded
from sparseflow.integrations.vllm.part_loaders import Loader, Shard, checked, hand_over, rows_of
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.formats import find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.fp8 import E4M3
from sparseflow.runtime.packed import packed_tensors
from sparseflow.runtime.pattern import TWO_OF_FOUR

SCALE = "weight_scale"
"""The parameter and the tensor: one scale for a weight, or one for each row."""

INPUT_SCALE = "input_scale"
"""The tensor of checkpoints that also fix the scale of inputs, which is not used: rows of x have own ones."""

FORMAT = "2:4-fp8"


class Fp8Form(Form):
    """``weight`` ``[N, K]`` in e4m3 and ``weight_scale``, a scalar, ``[1]``, ``[N]`` or ``[N, 1]``.

    Args:
        size: of the layer, as of every form.
        prunes: whether weights that aren't 2:4 are pruned by magnitude.
    """

    def __init__(self, size: Size, *, prunes: bool) -> None:
        super().__init__(*size)
        self._prunes = prunes

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create weight and scales, and what passes over scales of inputs."""
        own = checked(layer, self.parts, VALUES, loader, self._require_e4m3)
        data = torch.zeros(self.n, self.k, dtype=E4M3)
        weight = ModelWeightParameter(data=data, input_dim=1, output_dim=0, weight_loader=own)
        layer.register_parameter(VALUES, weight)
        scale = ChannelQuantScaleParameter(
            data=torch.ones(self.n, 1), output_dim=0, weight_loader=self._scale_loader(layer, loader)
        )
        layer.register_parameter(SCALE, scale)
        layer.register_parameter(INPUT_SCALE, unloaded(_pass_over))

    def take(self, layer: nn.Module, name: str) -> Tensor | PackedWeight:
        """Return the weight: packed with its bits and scales if it is 2:4, or else in 16 bits."""
        if not is_dummy():
            self.parts.require((VALUES, SCALE))
        values, scales = taken(layer, VALUES), taken(layer, SCALE).float()
        delattr(layer, INPUT_SCALE)
        raw = values.to(torch.bfloat16)  # which holds e4m3 exactly
        if self._prunes:
            raw = TWO_OF_FOUR.prune(raw, name=name)  # a row has one scale, so magnitudes compare without it
        fits = find(FORMAT).why_not(self.n, self.k, ELEMENT_TYPES[self.dtype]) is None
        if not fits or not TWO_OF_FOUR.holds(raw):
            return (raw.float() * scales).to(self.dtype)
        kept, positions = packed_tensors(raw, find("2:4"), name)
        tensors = (kept.to(E4M3), positions, scales.flatten())
        return PackedWeight(tensors, self.k, FORMAT, self.dtype, name=name)

    def _require_e4m3(self, loaded: Tensor, name: str) -> Tensor:
        if loaded.dtype != E4M3:
            raise CheckpointError(
                f"{name}.{VALUES}",
                f"it is {loaded.dtype}, not {E4M3}",
                "name the layer in the checkpoint's ignored layers, or get a complete copy",
            )
        return loaded

    def _scale_loader(self, layer: nn.Module, loader: Loader) -> Loader:
        def load(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
            name, rows = self.parts.name(loaded_shard_id), rows_of(layer, loaded_shard_id)
            scale = loaded_weight.float().reshape(-1, 1)
            if rows is None or scale.shape[0] not in (1, rows):
                raise CheckpointError(
                    f"{name}.{SCALE}",
                    f"it is {list(loaded_weight.shape)} in the checkpoint; one scale, or one a row is read",
                    "save the checkpoint with scales by tensor or by channel, not by block",
                )
            hand_over(loader, param, scale.expand(rows, 1), loaded_shard_id)
            self.parts.note(SCALE, loaded_shard_id)

        return load


def _pass_over(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
    """Take a tensor that nothing uses."""
