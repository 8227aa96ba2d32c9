"""The forms that a layer's weight has in checkpoints: the tensors that vLLM loads, and what they become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
from vllm.model_executor.parameter import ModelWeightParameter

from sparseflow.checkpoints.forms import BITMASK
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
from sparseflow.runtime.pattern import TWO_OF_FOUR, Pattern
from sparseflow.runtime.portable import codes_of_bytes, codes_to_bytes, nibbles_to_bytes

POSITIONS = "positions"
"""The parameter for ``….weight.positions``: `SparseFlowEngineConfig` has vLLM rename the tensors to it."""

CODE_BITS = {4: 4, 6: 4, 8: 5}
"""The bits of a block's positions, by its columns."""

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
        return taken(layer, VALUES)


class PackedForm(Form):
    """``weight``, the kept values, and ``weight.positions``: folders of SparseFlow.

    Args:
        pattern: of the weight, which keeps all but two of each block of columns.
    """

    values_name: ClassVar[str] = VALUES
    positions_name: ClassVar[str] = POSITIONS

    def __init__(
        self, parts: Parts, n: int, k: int, whole_k: int, dtype: torch.dtype, pattern: str = "2:4"
    ) -> None:
        super().__init__(parts, n, k, whole_k, dtype)
        self.pattern = Pattern.of(pattern)
        self._bits = CODE_BITS[self.pattern.block]
        if k % self.pattern.block and (k != whole_k or pattern == "2:4"):
            raise ArgumentError(
                f"layer {parts.names[0]}",
                f"it is packed, and a rank's part of it has {k} columns, which are no groups of "
                f"{self.pattern.block}",
                "use fewer ranks: --tensor-parallel-size",
            )
        self._by_block = k // self.pattern.block * self._bits % 8 != 0 and (k != whole_k or pattern == "2:4")
        """Whether a byte of the parameter has the positions of one block alone: ranks then part a byte."""

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create both tensors on the layer's device."""
        width = self._blocks(self.k) if self._by_block else self._bytes_of(self.k)
        fill = _FIRST_TWO & 15 if self._by_block else _FIRST_TWO  # for weights that nothing loads
        for name, columns, dtype, decode in (
            (self.values_name, self._kept(self.k), self.dtype, self._values),
            (self.positions_name, width, torch.uint8, self._positions),
        ):
            own = checked(layer, self.parts, name, loader, decode)
            layer.register_parameter(name, _parameter(self.n, columns, dtype, own))
        getattr(layer, self.positions_name).data.fill_(fill if self.pattern == TWO_OF_FOUR else 0)

    def take(self, layer: nn.Module, name: str) -> PackedWeight:
        """Return the packed weight, its tensors checked."""
        if not is_dummy():
            self.parts.require(self.tensor_names)
        return PackedWeight(self.take_tensors(layer), self.k, self.pattern.name, name=name)

    def take_tensors(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Remove the parameters; return the kept values and their positions as packed weights have them."""
        values, positions = (taken(layer, name) for name in (self.values_name, self.positions_name))
        if self._by_block:
            two_of_four = self.pattern == TWO_OF_FOUR  # whose padding must be positions, too
            positions = nibbles_to_bytes(positions) if two_of_four else codes_to_bytes(positions, self._bits)
        return values, positions

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The suffixes of the tensors of a packed part."""
        return (self.values_name, self.positions_name)

    def decode(self, tensors: dict[str, Tensor], name: str) -> Tensor:
        """Return the whole dense weight of a part, given its tensors by their suffixes."""
        values = self._values(tensors[self.values_name], name)
        positions = self._bytes(tensors[self.positions_name], name)
        return PackedWeight((values, positions), self.whole_k, self.pattern.name, name=name).unpack()

    def _blocks(self, k: int) -> int:
        return -(-k // self.pattern.block)

    def _kept(self, k: int) -> int:
        return self.pattern.keep * self._blocks(k)

    def _bytes_of(self, k: int) -> int:
        return -(-self._blocks(k) * self._bits // 8)

    def _values(self, loaded: Tensor, name: str) -> Tensor:
        require_columns(loaded, self._kept(self.whole_k), f"{name}.{self.values_name}")
        return loaded

    def _positions(self, loaded: Tensor, name: str) -> Tensor:
        found = self._bytes(loaded, name)
        return codes_of_bytes(found, self._bits)[:, : self._blocks(self.whole_k)] if self._by_block else found

    def _bytes(self, loaded: Tensor, name: str) -> Tensor:
        return _require_bytes(loaded, self._bytes_of(self.whole_k), f"{name}.{VALUES}.{POSITIONS}")


class BitmaskForm(PackedForm):
    """``compressed`` ``[N, K/2]``, ``bitmask`` and ``shape``: compressed-tensors' ``sparse-24-bitmask``."""

    values_name = "compressed"
    positions_name = "bitmask"

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create the tensors of a packed weight, and what reads the shape."""
        super().create(layer, loader)
        layer.register_parameter("shape", unloaded(self.read_shape))

    def take_tensors(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Remove the parameters; return the kept values and their positions as packed weights have them."""
        del layer.shape
        return super().take_tensors(layer)

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
        mask = _require_bytes(loaded, -(-self.whole_k // 8), f"{name}.{self.positions_name}")
        return positions_of_bitmask(mask, self.whole_k, name=name)


class MixedForm(Form):
    """A merged layer whose parts are not all packed alike: packed ones are unpacked as they come.

    Args:
        forms: of each part, made for this layer; None for a dense part.
    """

    def __init__(self, forms: Sequence[PackedForm | None]) -> None:
        packed = next(form for form in forms if form is not None)
        super().__init__(packed.parts, packed.n, packed.k, packed.whole_k, packed.dtype)
        self._packed, self._forms = packed, forms
        self._waiting: dict[int, dict[str, Tensor]] = {}

    def create(self, layer: nn.Module, loader: Loader) -> None:
        """Create the dense weight, and what takes a packed part's tensors."""
        own = self._receiver(layer, VALUES, loader)
        layer.register_parameter(VALUES, _parameter(self.n, self.k, self.dtype, own))
        for suffix in self._others():
            layer.register_parameter(suffix, unloaded(self._receiver(layer, suffix, loader)))

    def take(self, layer: nn.Module, name: str) -> Tensor:
        """Return the weight of all parts, dense."""
        if not is_dummy():
            self.parts.require((VALUES,))
        for suffix in self._others():
            delattr(layer, suffix)
        return taken(layer, VALUES)

    def _others(self) -> list[str]:
        shape = ["shape"] if isinstance(self._packed, BitmaskForm) else []
        return [name for name in (*self._packed.tensor_names, *shape) if name != VALUES]

    def _receiver(self, layer: nn.Module, suffix: str, loader: Loader) -> Loader:
        def load(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
            (index,) = self.parts.indices(loaded_shard_id)
            name = self.parts.name(loaded_shard_id)
            if index is None or suffix == "shape":
                return
            require_rows(layer, loaded_weight, loaded_shard_id, f"{name}.{suffix}")
            dense: Tensor | None = loaded_weight
            if (form := self._forms[index]) is not None:
                dense = self._complete(form, index, suffix, loaded_weight, name)
            if dense is not None:
                require_columns(dense, self.whole_k, f"{name}.{suffix}")
                hand_over(loader, getattr(layer, VALUES), dense, loaded_shard_id)
                self.parts.note(VALUES, loaded_shard_id)

        return load

    def _complete(
        self, form: PackedForm, index: int, suffix: str, tensor: Tensor, name: str
    ) -> Tensor | None:
        """Return the weight of a packed part once both its tensors have come."""
        waiting = self._waiting.setdefault(index, {})
        waiting[suffix] = tensor
        if waiting.keys() < set(form.tensor_names):
            return None
        return form.decode(self._waiting.pop(index), name)


Size = tuple[Parts, int, int, int, torch.dtype]
"""The arguments of every form."""


def packed_form(form: str, size: Size, pattern: str | None) -> PackedForm | None:
    """Return the form of a packed part.

    Args:
        form: of the checkpoint, as `checkpoints.forms` calls it.
        size: of the layer.
        pattern: of the part; None: it is dense, and so is the result.
    """
    if pattern is None:
        return None
    return BitmaskForm(*size) if form == BITMASK.name else PackedForm(*size, pattern)


def _parameter(
    n: int, columns: int, dtype: torch.dtype, loader: Loader, device: str | None = None
) -> nn.Parameter:
    """Return a parameter that vLLM's loaders cut along both dimensions."""
    data = torch.empty(n, columns, dtype=dtype, device=device)
    made: nn.Parameter = ModelWeightParameter(data=data, input_dim=1, output_dim=0, weight_loader=loader)
    return made


def unloaded(loader: Loader) -> nn.Parameter:
    """Return a parameter without data, for a tensor that is read and not kept."""
    found = nn.Parameter(torch.empty(0, dtype=torch.int64), requires_grad=False)
    found.weight_loader = loader  # type: ignore[attr-defined]  # where vLLM looks for it
    return found


def taken(layer: nn.Module, name: str) -> Tensor:
    """Remove a parameter from a layer and return its data."""
    data: Tensor = getattr(layer, name).data
    delattr(layer, name)
    return data


def _require_bytes(tensor: Tensor, width: int, name: str) -> Tensor:
    if tensor.dtype != torch.uint8:
        raise CheckpointError(
            name, f"it is {tensor.dtype}, not uint8", "get a complete copy of the checkpoint"
        )
    require_columns(tensor, width, name)
    return tensor


def is_dummy() -> bool:
    """Return whether vLLM makes weights up instead of loading them (``--load-format dummy``)."""
    from vllm.config import get_current_vllm_config

    return str(get_current_vllm_config().load_config.load_format) == "dummy"
