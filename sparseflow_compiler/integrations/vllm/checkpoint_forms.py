"""The forms that a layer's weight has in checkpoints: the tensors that vLLM loads, and what they become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
from vllm.model_executor.parameter import ModelWeightParameter

from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.compressed_tensors import positions_of_bitmask
from sparseflow.integrations.vllm.part_loaders import (
    Loader,
    Parts,
    Shard,
    checked,
    hand_over,
    require_columns,
    require_rows,
)
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.portable import bytes_to_nibbles, nibbles_to_bytes

POSITIONS = "positions"
"""The parameter for ``….weight.positions``: `SparseFlowEngineConfig` has vLLM rename the tensors to it."""

_FIRST_TWO = 0x44
"""Positions of two groups that keep their first two entries."""


class Form(ABC):
    """What a layer of one form loads.

    Args:
        parts: of the layer.
        n: the layer's rows on this rank.
        k: its columns on this rank.
        whole_k: its columns on all ranks.
        dtype: of its weight.
    """

    online: ClassVar[bool] = False
    """Whether a layer is processed as soon as it is loaded, and has no memory before."""

    def __init__(self, parts: Parts, n: int, k: int, whole_k: int, dtype: torch.dtype) -> None:
        self.parts, self.n, self.k, self.whole_k, self.dtype = parts, n, k, whole_k, dtype

    @abstractmethod
    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Give the layer the parameters that vLLM loads, by the names of the tensors.

        Args:
            layer: of vLLM.
            loader: its own loader.
        """

    @abstractmethod
    def take(self, layer: nn.Module, name: str) -> Tensor | PackedWeight:
        """Remove the parameters, and return the weight ``[n, k]``, packed if the checkpoint has it so.

        Args:
            layer: all of whose tensors were loaded.
            name: what errors call the weight.

        Raises:
            CheckpointError: a tensor was not loaded.
            WeightError: a packed weight holds what none can.
        """


class DenseForm(Form):
    """One tensor ``weight``, 2:4 or not."""

    online = True

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create the weight on "meta": vLLM gives it memory once all its parts are there."""
        layer.register_parameter(VALUES, _parameter(self.n, self.k, self.dtype, loader, device="meta"))
        initialize_online_processing(layer)

    def take(self, layer: nn.Module, name: str) -> Tensor:
        """Return the weight; vLLM refuses tensors of other shapes itself."""
        return _taken(layer, VALUES)


class PackedForm(Form):
    """``weight`` ``[N, K/2]``, the kept values, and ``weight.positions``: folders of SparseFlow."""

    values_name: ClassVar[str] = VALUES
    positions_name: ClassVar[str] = POSITIONS

    def __init__(self, parts: Parts, n: int, k: int, whole_k: int, dtype: torch.dtype) -> None:
        super().__init__(parts, n, k, whole_k, dtype)
        if k % 4:
            raise ArgumentError(
                f"layer {parts.names[0]}",
                f"it is packed, and a rank's part of it has {k} columns, which are no groups of 4",
                "use fewer ranks: --tensor-parallel-size",
            )
        self._by_group = k % 8 != 0
        """Whether a byte of the parameter has the positions of one group, not two: ranks then part a byte."""

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create both tensors on the layer's device."""
        width = self.k // 4 if self._by_group else self.k // 8
        fill = _FIRST_TWO & 15 if self._by_group else _FIRST_TWO  # for weights that nothing loads
        for name, columns, dtype, decode in (
            (self.values_name, self.k // 2, self.dtype, self._values),
            (self.positions_name, width, torch.uint8, self._positions),
        ):
            own = checked(layer, self.parts, name, loader, decode)
            layer.register_parameter(name, _parameter(self.n, columns, dtype, own))
        getattr(layer, self.positions_name).data.fill_(fill)

    def take(self, layer: nn.Module, name: str) -> PackedWeight:
        """Return the packed weight, its tensors checked."""
        if not _is_dummy():
            self.parts.require(self.tensor_names)
        values, positions = (_taken(layer, name) for name in (self.values_name, self.positions_name))
        if self._by_group:
            positions = nibbles_to_bytes(positions)
        return PackedWeight((values, positions), self.k, name=name)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The suffixes of the tensors of a packed part."""
        return (self.values_name, self.positions_name)

    def decode(self, tensors: dict[str, Tensor], name: str) -> Tensor:
        """Return the whole dense weight of a part, given its tensors by their suffixes."""
        values = self._values(tensors[self.values_name], name)
        positions = self._bytes(tensors[self.positions_name], name)
        return PackedWeight((values, positions), self.whole_k, name=name).unpack()

    def _values(self, loaded: Tensor, name: str) -> Tensor:
        require_columns(loaded, self.whole_k // 2, f"{name}.{self.values_name}")
        return loaded

    def _positions(self, loaded: Tensor, name: str) -> Tensor:
        found = self._bytes(loaded, name)
        return bytes_to_nibbles(found)[:, : self.whole_k // 4] if self._by_group else found

    def _bytes(self, loaded: Tensor, name: str) -> Tensor:
        _require_bytes(loaded, self.whole_k, f"{name}.{VALUES}.{POSITIONS}")
        return loaded


class BitmaskForm(PackedForm):
    """``compressed`` ``[N, K/2]``, ``bitmask`` and ``shape``: compressed-tensors' ``sparse-24-bitmask``."""

    values_name = "compressed"
    positions_name = "bitmask"

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create the tensors of a packed weight, and what reads the shape."""
        super().create(layer, loader)
        layer.register_parameter("shape", _unloaded(self.read_shape))

    def take(self, layer: nn.Module, name: str) -> PackedWeight:
        """Return the packed weight, its tensors checked."""
        found = super().take(layer, name)
        del layer.shape
        return found

    def read_shape(self, param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
        """Check the ``shape`` of a part, ``[N, K]``."""
        sizes = loaded_weight.flatten().tolist()
        if len(sizes) != 2 or sizes[1] != self.whole_k:
            raise CheckpointError(
                f"{self.parts.name(loaded_shard_id)}.shape",
                f"it is {sizes} in the checkpoint; the model needs {self.whole_k} columns",
                "use the checkpoint of this model",
            )

    def _bytes(self, loaded: Tensor, name: str) -> Tensor:
        _require_bytes(loaded, self.whole_k, f"{name}.{self.positions_name}")
        return positions_of_bitmask(loaded, self.whole_k, name=name)


class MixedForm(Form):
    """A merged layer of which some parts are packed in the checkpoint: these are unpacked as they come.

    Args:
        packed: the form of the packed parts, made for this layer.
        which: of each part whether it is packed.
    """

    def __init__(self, packed: PackedForm, which: tuple[bool, ...]) -> None:
        super().__init__(packed.parts, packed.n, packed.k, packed.whole_k, packed.dtype)
        self.packed, self._which = packed, which
        self._waiting: dict[int, dict[str, Tensor]] = {}

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create the dense weight, and what takes a packed part's tensors."""
        own = self._receiver(layer, VALUES, loader)
        layer.register_parameter(VALUES, _parameter(self.n, self.k, self.dtype, own))
        for suffix in self._others():
            layer.register_parameter(suffix, _unloaded(self._receiver(layer, suffix, loader)))

    def take(self, layer: nn.Module, name: str) -> Tensor:
        """Return the weight of all parts, dense."""
        if not _is_dummy():
            self.parts.require((VALUES,))
        for suffix in self._others():
            delattr(layer, suffix)
        return _taken(layer, VALUES)

    def _others(self) -> list[str]:
        shape = ["shape"] if isinstance(self.packed, BitmaskForm) else []
        return [name for name in (*self.packed.tensor_names, *shape) if name != VALUES]

    def _receiver(self, layer: nn.Module, suffix: str, loader: Loader) -> Loader:
        def load(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
            (index,) = self.parts.indices(loaded_shard_id)
            name = self.parts.name(loaded_shard_id)
            if index is None or suffix == "shape":
                return
            require_rows(layer, loaded_weight, loaded_shard_id, f"{name}.{suffix}")
            dense: Tensor | None = loaded_weight
            if self._which[index]:
                dense = self._complete(index, suffix, loaded_weight, name)
            if dense is not None:
                require_columns(dense, self.whole_k, f"{name}.{suffix}")
                hand_over(loader, getattr(layer, VALUES), dense, loaded_shard_id)
                self.parts.note(VALUES, loaded_shard_id)

        return load

    def _complete(self, index: int, suffix: str, tensor: Tensor, name: str) -> Tensor | None:
        """Return the weight of a packed part once both its tensors have come."""
        waiting = self._waiting.setdefault(index, {})
        waiting[suffix] = tensor
        if waiting.keys() < set(self.packed.tensor_names):
            return None
        return self.packed.decode(self._waiting.pop(index), name)


PACKED_FORMS: dict[str, type[PackedForm]] = {"sparseflow": PackedForm, "sparse-24-bitmask": BitmaskForm}
"""By their names in `checkpoints.forms`."""


def _parameter(
    n: int, columns: int, dtype: torch.dtype, loader: Loader, device: str | None = None
) -> nn.Parameter:
    """Return a parameter that vLLM's loaders cut along both dimensions."""
    data = torch.empty(n, columns, dtype=dtype, device=device)
    made: nn.Parameter = ModelWeightParameter(data=data, input_dim=1, output_dim=0, weight_loader=loader)
    return made


def _unloaded(loader: Loader) -> nn.Parameter:
    """Return a parameter without data, for a tensor that is read and not kept."""
    found = nn.Parameter(torch.empty(0, dtype=torch.int64), requires_grad=False)
    found.weight_loader = loader  # type: ignore[attr-defined]  # where vLLM looks for it
    return found


def _taken(layer: nn.Module, name: str) -> Tensor:
    """Remove a parameter from a layer and return its data."""
    data: Tensor = getattr(layer, name).data
    delattr(layer, name)
    return data


def _require_bytes(tensor: Tensor, whole_k: int, name: str) -> None:
    if tensor.dtype != torch.uint8:
        raise CheckpointError(
            name, f"it is {tensor.dtype}, not uint8", "get a complete copy of the checkpoint"
        )
    require_columns(tensor, (whole_k + 7) // 8, name)


def _is_dummy() -> bool:
    """Return whether vLLM makes weights up instead of loading them (``--load-format dummy``)."""
    from vllm.config import get_current_vllm_config

    return str(get_current_vllm_config().load_config.load_format) == "dummy"
