"""The weights of an artifact: sharded safetensors, each tensor stored once for all programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.graphs import Place
from sparseflow.runtime.artifact.values import require
from sparseflow.runtime.checks import NATIVE_DTYPES, dtype_name
from sparseflow.runtime.formats import find
from sparseflow.runtime.packed import PackedWeight
from sparseflow.support.documents import Document
from sparseflow.support.tensor_files import TensorFile

NATIVE = {dtype_name(dtype): dtype for dtype in NATIVE_DTYPES}
"""The dtypes of packed weights by name."""

SHARD_BYTES = 1 << 30
"""The largest size of a shard, unless a single weight is larger."""


class WeightWriter:
    """Collect the weights that graphs read, and write them shard by shard."""

    def __init__(self) -> None:
        self._held: dict[object, str] = {}
        self._weights: dict[str, Tensor | PackedWeight] = {}

    def place(self, graph: fx.GraphModule, target: str) -> Place:
        """Return the place in the artifact of a weight that a graph reads."""
        path, _, buffer = target.rpartition(".")
        if path:
            holder = graph.get_submodule(path)
            assert isinstance(holder, PackedWeight), "to_fx nests nothing else"
            return self._name(id(holder), path, holder), buffer
        tensor = graph.get_buffer(target)
        # The same bytes: written by one program, read by another.
        key = (tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        return self._name(key, target, tensor), ""

    def _name(self, key: object, wanted: str, held: Tensor | PackedWeight) -> str:
        if key not in self._held:
            base, count = re.sub(r"\W", "_", wanted), 1
            name = base
            while name in self._weights:
                count += 1
                name = f"{base}_{count}"
            self._held[key], self._weights[name] = name, held
        return self._held[key]

    def write(self, folder: Path) -> dict[str, object]:
        """Write the shards, holding at most one in memory beside the weights.

        Returns:
            For each weight its device and file; of a packed one its format, dtype and in features too.

        Raises:
            ArtifactError: safetensors doesn't support a tensor.
        """
        index: dict[str, object] = {}
        shard: dict[str, Tensor] = {}
        count = 1
        for name, held in self._weights.items():
            tensors = _portable(name, held)
            if shard and sum(t.nbytes for t in (*shard.values(), *tensors.values())) > SHARD_BYTES:
                _save(shard, folder / _shard_name(count))
                shard, count = {}, count + 1
            shard |= tensors
            index[name] = _entry(held) | {"file": _shard_name(count)}
        if shard:
            _save(shard, folder / _shard_name(count))
        return index


def _shard_name(count: int) -> str:
    return f"weights-{count:05}.safetensors"


def _portable(name: str, held: Tensor | PackedWeight) -> dict[str, Tensor]:
    if isinstance(held, Tensor):
        # A copy: safetensors refuses tensors that share memory, such as slices and expanded tensors.
        return {name: held.detach().clone(memory_format=torch.contiguous_format)}
    parts = zip(held.format.part_names, held.portable(), strict=True)
    return {f"{name}.{part}": tensor for part, tensor in parts}


def _entry(held: Tensor | PackedWeight) -> dict[str, object]:
    device: dict[str, object] = {"device": str(held.device)}
    if isinstance(held, Tensor):
        return device
    dtype = dtype_name(held.dtype)
    return device | {"format": held.format.name, "dtype": dtype, "in_features": held.in_features}


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    try:
        save_file(dict(tensors), file)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"weights of {file.name}", f"safetensors can't hold them: {error}") from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # by default readable to the owner only


class WeightReader:
    """Load weights to their devices on first use.

    On a CPU they stay memory-mapped; to a GPU they are copied one at a time.

    Args:
        folder: of the artifact.
        index: what `WeightWriter.write` returned.
        verified: the names of its files.
        devices: where the artifact's devices are here.
    """

    def __init__(
        self,
        folder: Path,
        index: Document,
        verified: Collection[str],
        devices: Callable[[str], torch.device],
    ) -> None:
        self._folder, self._index, self._verified, self._devices = folder, index, verified, devices
        self._files: dict[str, TensorFile] = {}
        self._loaded: dict[str, Tensor | PackedWeight] = {}

    def resolve(self, name: str, buffer: str) -> nn.Module | Tensor:
        """Return a plain tensor, or the packed weight that owns the buffer.

        Raises:
            KeyError, TypeError, ValueError, SparseFlowError: there is no such weight, or it is malformed.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name, self._index[name])
        found = self._loaded[name]
        kept = (
            {"dense": found.keep_dense, "turned": found.keep_turned}
            if isinstance(found, PackedWeight)
            else {}
        )
        known = ("",) if isinstance(found, Tensor) else (*found.format.part_names, *kept)
        if buffer not in known:
            raise ValueError(f"{name:.80} has no {buffer!r:.80}")
        if buffer in kept:
            kept[buffer]()
        return found

    def _load(self, name: str, entry: Document) -> Tensor | PackedWeight:
        device = self._devices(entry["device"])
        if "format" not in entry:
            return self._tensor(entry["file"], name, device)
        stored = find(require(entry["format"], str))
        dtype = NATIVE[require(entry["dtype"], str)]
        tensors = [self._tensor(entry["file"], f"{name}.{part}", device) for part in stored.part_names]
        in_features = require(entry["in_features"], int)
        return PackedWeight(tensors, in_features, stored.name, dtype, name=name, trusted=True)

    def _tensor(self, file: str, name: str, device: torch.device) -> Tensor:
        if file not in self._verified:
            raise ValueError(f"{file!r:.80} isn't a file of the artifact")
        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, framework="pt", device="cpu")
        return self._files[file].get_tensor(name).to(device)
