"""Loaders of a layer's tensors: each is checked, then handed to vLLM's own, which cuts it for this rank.

vLLM merges layers that read the same input (``q_proj``, ``k_proj``, ``v_proj``). Its loaders get each part
with a *shard*: ``"q"``, ``"k"``, ``"v"``, a number, several, or None where a tensor has all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn
from vllm.model_executor.layers.linear import QKVParallelLinear

from sparseflow.errors import CheckpointError

Shard: TypeAlias = "str | int | tuple[int, ...] | None"
Loader: TypeAlias = Callable[..., object]
"""Of vLLM: called with a parameter, the tensor for it, and the shard if there is one."""

_QKV = ("q", "k", "v")
_COPY = "get a complete copy of the checkpoint"


@dataclass
class Parts:
    """The parts of a layer, and which of their tensors have come.

    Attributes:
        names: in the checkpoint, such as ``model.layers.0.self_attn.q_proj``; of a layer that isn't merged,
            or is merged in the checkpoint too, its own.
        count: of parts in the model.
        arrived: of each tensor, by its suffix, the parts that were loaded; None stands for all.
    """

    names: tuple[str, ...]
    count: int = 1
    arrived: dict[str, set[int | None]] = field(default_factory=dict)

    def indices(self, shard: Shard) -> list[int | None]:
        """Return the places of a shard's parts; None stands for all."""
        if isinstance(shard, tuple):
            return list(shard)
        return [_QKV.index(shard) if isinstance(shard, str) else shard]

    def name(self, shard: Shard) -> str:
        """Return what errors call the first part of a shard."""
        return self.at(self.indices(shard)[0] or 0)

    def at(self, index: int) -> str:
        """Return what errors call a part."""
        return self.names[index] if index < len(self.names) else f"{self.names[0]}, part {index},"

    def note(self, suffix: str, shard: Shard) -> None:
        """Record that a tensor has come."""
        self.arrived.setdefault(suffix, set()).update(self.indices(shard))

    def require(self, suffixes: Sequence[str]) -> None:
        """Refuse a layer some of whose tensors have not come; forget those that have.

        Raises:
            CheckpointError: names the tensor.
        """
        arrived, self.arrived = self.arrived, {}
        for suffix in suffixes:
            found = arrived.get(suffix, set())
            missing = [] if None in found else [i for i in range(self.count) if i not in found]
            if missing:
                raise CheckpointError("checkpoint", f"it has no tensor {self.at(missing[0])}.{suffix}", _COPY)


def checked(
    layer: nn.Module, parts: Parts, suffix: str, loader: Loader, decode: Callable[[Tensor, str], Tensor]
) -> Loader:
    """Return a loader that checks a tensor of a part and decodes it, before vLLM's loader takes it.

    Args:
        layer: that it is for; as it is when it loads.
        parts: of the layer.
        suffix: of the tensor's name in the checkpoint.
        loader: vLLM's.
        decode: returns what the parameter holds, given the tensor and the part's name.
    """

    # vLLM binds arguments to these names, and replaces `param` where it loads a layer again.
    def load(param: Tensor, loaded_weight: Tensor, loaded_shard_id: Shard = None) -> None:
        name = parts.name(loaded_shard_id)
        require_rows(layer, loaded_weight, loaded_shard_id, f"{name}.{suffix}")
        tensor = decode(loaded_weight, name)
        hand_over(loader, param, tensor, loaded_shard_id)
        parts.note(suffix, loaded_shard_id)

    return load


def hand_over(loader: Loader, param: Tensor, tensor: Tensor, shard: Shard) -> None:
    """Call vLLM's loader, which takes a shard for merged layers alone."""
    loader(param, tensor, *(() if shard is None else (shard,)))


def require_rows(layer: nn.Module, tensor: Tensor, shard: Shard, name: str) -> None:
    """Refuse a tensor that has not as many rows as its part of the model; vLLM would cut off the rest.

    Raises:
        CheckpointError: it hasn't.
    """
    rows = rows_of(layer, shard)
    if tensor.dim() != 2 or (rows is not None and tensor.shape[0] != rows):
        wanted = "a matrix" if rows is None else f"a matrix of {rows} rows"
        raise CheckpointError(
            name,
            f"it is {list(tensor.shape)} in the checkpoint; the model needs {wanted}",
            "use the checkpoint of this model",
        )


def require_columns(tensor: Tensor, columns: int, name: str) -> None:
    """Refuse a matrix of another width.

    Raises:
        CheckpointError: says which it needs.
    """
    if tensor.shape[-1] != columns:
        raise CheckpointError(
            name,
            f"it is {list(tensor.shape)} in the checkpoint; the model needs {columns} columns",
            "use the checkpoint of this model",
        )


def rows_of(layer: nn.Module, shard: Shard) -> int | None:
    """Return the rows of a part in the checkpoint, before it is cut for ranks; None if it isn't known."""
    if isinstance(layer, QKVParallelLinear):
        v_size = getattr(layer, "v_head_size", layer.head_size)
        heads = {
            "q": layer.total_num_heads * layer.head_size,
            "k": layer.total_num_kv_heads * layer.head_size,
            "v": layer.total_num_kv_heads * v_size,
        }
        found = sum(heads.values()) if shard is None else heads.get(str(shard))
        return None if found is None else int(found)
    sizes: list[int] = getattr(layer, "output_sizes", None) or [layer.output_size]
    if shard is None:
        return sum(sizes)
    return sum(sizes[i] for i in (shard if isinstance(shard, tuple) else (shard,)) if isinstance(i, int))
