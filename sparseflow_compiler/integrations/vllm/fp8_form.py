"""The form of checkpoints whose weights are fp8 already: e4m3 ``weight`` and ``weight_scale``.

Where a scale is of a row or of the whole weight, values that are 2:4 keep their bits and their scales:
nothing is rounded a second time. Where it is of a block, weights are dequantised and quantised again by rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm.model_executor.parameter import ChannelQuantScaleParameter, ModelWeightParameter

from sparseflow.checkpoints.fp8_weights import dequantized, scale_factors
from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.vllm.checkpoint_forms import BitmaskForm, Form, Size, is_dummy, taken, unloaded
from sparseflow.integrations.vllm.part_loaders import Loader, Shard, checked, hand_over, rows_of
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.formats import find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.fp8 import E4M3
from sparseflow.runtime.packed import pack, packed_tensors
from sparseflow.runtime.pattern import TWO_OF_FOUR

SCALE = "weight_scale"
"""The parameter and the tensor: one scale for a weight, one for each row, or a grid of them over blocks."""

INPUT_SCALE = "input_scale"
"""The tensor of checkpoints that also fix the scale of inputs, which is not used: rows of x have own ones."""

FORMAT = "2:4-fp8"


class Fp8Form(Form):
    """``weight`` ``[N, K]`` in e4m3 and ``weight_scale``.

    The scale is one number, ``[N]``, ``[N, 1]``, or a grid over blocks. The parameter has a row of them for
    each row of the weight, so that vLLM cuts it for ranks wherever it cuts the weight.

    Args:
        size: of the layer, as of every form.
        prunes: whether weights that aren't 2:4 are pruned by magnitude.
        block: the rows and columns of a block.
        masked: whether the checkpoint has the kept values and bitmasks, ``sparse-24-bitmask``, in place of
            ``weight``.

    Raises:
        ArgumentError: a rank's columns are no whole blocks.
    """

    def __init__(
        self, size: Size, *, prunes: bool, block: tuple[int, int] | None = None, masked: bool = False
    ) -> None:
        super().__init__(*size)
        self._prunes, self._block = prunes, block
        self._kept = _KeptValues(self.parts, self.n, self.k, self.whole_k, E4M3) if masked else None
        if block is not None and self.k != self.whole_k and self.k % block[1]:
            raise ArgumentError(
                f"layer {self.parts.names[0]}",
                f"its scales are of blocks of {block[1]} columns, and a rank's part of it has {self.k}",
                "use fewer ranks: --tensor-parallel-size",
            )

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create weight and scales, and what passes over scales of inputs."""
        if self._kept is not None:
            self._kept.create(layer, loader)
        else:
            data = torch.zeros(self.n, self.k, dtype=E4M3)
            take = checked(layer, self.parts, VALUES, loader, _require_e4m3)
            weight = ModelWeightParameter(data=data, input_dim=1, output_dim=0, weight_loader=take)
            layer.register_parameter(VALUES, weight)
        scales, own = torch.ones(self.n, self._grid(self.k)), self._scale_loader(layer, loader)
        if self._block is None:  # one column stands for all columns, on every rank
            scale = ChannelQuantScaleParameter(data=scales, output_dim=0, weight_loader=own)
        else:
            scale = ModelWeightParameter(data=scales, input_dim=1, output_dim=0, weight_loader=own)
        layer.register_parameter(SCALE, scale)
        layer.register_parameter(INPUT_SCALE, unloaded(_pass_over))

    def take(self, layer: nn.Module, name: str) -> Tensor | PackedWeight:
        """Return the weight: packed if it is 2:4, or else in 16 bits."""
        if not is_dummy():
            self.parts.require((*((VALUES,) if self._kept is None else self._kept.tensor_names), SCALE))
        values = taken(layer, VALUES) if self._kept is None else self._kept.take_values(layer, name)
        scales = taken(layer, SCALE).float()
        delattr(layer, INPUT_SCALE)
        if self._block is not None:
            return self._by_block(values, scales, name)
        raw = values.to(torch.bfloat16)  # which holds e4m3 exactly
        if self._prunes:
            raw = TWO_OF_FOUR.prune(raw, name=name)  # a row has one scale, so magnitudes compare without it
        if not self._fits() or not TWO_OF_FOUR.holds(raw):
            return (raw.float() * scales).to(self.dtype)
        kept, positions = packed_tensors(raw, find("2:4"), name)
        tensors = (kept.to(E4M3), positions, scales.flatten())
        return PackedWeight(tensors, self.k, FORMAT, self.dtype, name=name)

    def _by_block(self, values: Tensor, scales: Tensor, name: str) -> Tensor | PackedWeight:
        assert self._block is not None, "the caller asked"
        weight = dequantized(values, scales, (1, self._block[1]), self.dtype, f"layer {name}")
        if self._prunes:
            weight = TWO_OF_FOUR.prune(weight, name=name)
        if not self._fits() or not TWO_OF_FOUR.holds(weight):
            return weight
        return pack(weight, FORMAT, name=name)

    def _fits(self) -> bool:
        return find(FORMAT).why_not(self.n, self.k, ELEMENT_TYPES[self.dtype]) is None

    def _grid(self, columns: int) -> int:
        """Return the scales of so many columns of a row."""
        return 1 if self._block is None else -(-columns // self._block[1])

    def _scale_loader(self, layer: nn.Module, loader: Loader) -> Loader:
        def load(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
            name, rows = self.parts.name(loaded_shard_id), rows_of(layer, loaded_shard_id)
            scale = scale_factors(loaded_weight, f"{name}.{SCALE}")
            hand_over(loader, param, self._by_rows(scale, rows, f"{name}.{SCALE}"), loaded_shard_id)
            self.parts.note(SCALE, loaded_shard_id)

        return load

    def _by_rows(self, scale: Tensor, rows: int | None, name: str) -> Tensor:
        """Return the scales of a part with a row for each row of its weight."""
        if rows is not None and scale.numel() in (1, rows) and scale.numel() == max(scale.shape, default=1):
            return scale.reshape(-1, 1).expand(rows, self._grid(self.whole_k))
        wanted = "one scale, or one a row, is read"
        if self._block is not None:
            grid = [-(-(rows or 0) // self._block[0]), self._grid(self.whole_k)]
            if rows is not None and list(scale.shape) == grid:
                return scale.repeat_interleave(self._block[0], 0)[:rows]
            wanted = f"a grid {grid} over blocks of {list(self._block)} is read"
        raise CheckpointError(
            name,
            f"it is {list(scale.shape)} in the checkpoint; {wanted}",
            "use the checkpoint of this model, with scales by tensor, by row or by blocks that it declares",
        )


class _KeptValues(BitmaskForm):
    """``compressed`` in e4m3, ``bitmask`` and ``shape``."""

    def take_values(self, layer: nn.Module, name: str) -> Tensor:
        """Remove the parameters and return the dense values ``[n, k]`` in e4m3."""
        values, positions = self.take_tensors(layer)
        # Checked, and unpacked, in bfloat16, which holds e4m3 exactly.
        weight = PackedWeight((values.to(torch.bfloat16), positions), self.k, "2:4", name=name)
        return weight.unpack().to(E4M3)

    def _values(self, loaded: Tensor, name: str) -> Tensor:
        return super()._values(_require_e4m3(loaded, name, self.values_name), name)


def _require_e4m3(loaded: Tensor, name: str, suffix: str = VALUES) -> Tensor:
    if loaded.dtype != E4M3:
        raise CheckpointError(
            f"{name}.{suffix}",
            f"it is {loaded.dtype}, not {E4M3}",
            "name the layer in the checkpoint's ignored layers, or get a complete copy",
        )
    return loaded


def _pass_over(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
    """Take a tensor that nothing uses."""
