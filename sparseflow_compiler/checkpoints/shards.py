"""Read and write folders of safetensors like transformers: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseflow.errors import CheckpointError
from sparseflow.support.tensor_files import TensorFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
SHARD_BYTES = 5 << 30
"""The largest size of a file, unless a single tensor is larger."""

_WHOLE = "get a complete copy of the checkpoint"


def read_json(folder: Path, name: str) -> dict[str, object]:
    """Read the object in a JSON file of a checkpoint.

    Raises:
        CheckpointError: it can't be read, or isn't an object.
    """
    try:
        found = json.loads((folder / name).read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder}", f"{name} can't be read: {error.strerror}", _WHOLE
        ) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"checkpoint {folder}", f"{name} isn't JSON", _WHOLE) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"checkpoint {folder}", f"{name} isn't an object", _WHOLE)
    return found


class ShardReader:
    """The tensors of a folder by name, memory-mapped.

    Args:
        folder: with ``model.safetensors``, or ``model.safetensors.index.json`` and the shards it names.

    Raises:
        CheckpointError: there is no such folder or no safetensors in it, or a shard is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, TensorFile] = {}
        if (folder / INDEX).is_file():
            self._home = self._indexed()
        elif (folder / SINGLE).is_file():
            self._home = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        else:
            rule = (
                f"there is neither {SINGLE} nor {INDEX} in it"
                if folder.is_dir()
                else "there is no such folder"
            )
            raise CheckpointError(f"checkpoint {folder}", rule, "give a folder that save_pretrained wrote")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors, in the order of the files."""
        return tuple(self._home)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return tuple(self._of(name).get_slice(name).get_shape())

    def dtypes(self) -> dict[str, str]:
        """Return the element type of every tensor as safetensors spells it, without reading any."""
        return {name: self._of(name).get_slice(name).get_dtype() for name in self._home}

    def metadata(self) -> dict[str, str]:
        """Return what the files say beside their tensors, all together."""
        found: dict[str, str] = {}
        for file in dict.fromkeys(self._home.values()):
            found |= self._open(file).metadata() or {}
        return found

    def tensor(self, name: str) -> Tensor:
        """Read a tensor by name, to the CPU.

        Raises:
            CheckpointError: there is no such tensor, or it is damaged.
        """
        file = self._of(name)
        try:
            found = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(self._home[name], error) from None
        return found

    def _of(self, name: str) -> TensorFile:
        if name not in self._home:
            raise CheckpointError(f"checkpoint {self.folder}", f"it has no tensor {name}", _WHOLE)
        return self._open(self._home[name])

    def _indexed(self) -> dict[str, str]:
        found = read_json(self.folder, INDEX).get("weight_map")
        plain = isinstance(found, dict) and all(
            isinstance(f, str) and Path(f).name == f for f in found.values()
        )
        if not isinstance(found, dict) or not plain:
            raise CheckpointError(
                f"checkpoint {self.folder}", f"{INDEX} has no map from tensors to files", _WHOLE
            )
        held = {file: set(self._open(file).keys()) for file in dict.fromkeys(found.values())}
        for name, file in found.items():
            if name not in held[file]:
                raise CheckpointError(f"checkpoint {self.folder}", f"{file} lacks the tensor {name}", _WHOLE)
        return found

    def _open(self, file: str) -> TensorFile:
        if file not in self._files:
            try:
                self._files[file] = safe_open(self.folder / file, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise self._damaged(file, error) from None
        return self._files[file]

    def _damaged(self, file: str, error: Exception) -> CheckpointError:
        return CheckpointError(f"checkpoint {self.folder}", f"{file} can't be read: {error}", _WHOLE)


class ShardWriter:
    """Writes tensors shard by shard; at most one shard is in memory.

    Args:
        folder: an empty folder.
        shard_bytes: how large a file may be.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._limit = folder, shard_bytes
        self._shard: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors of one weight, which go to one file."""
        added = {name: tensor.contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in (*self._shard.values(), *added.values()))
        if self._shard and size > self._limit:
            self._flush()
        self._shard |= added
        self._bytes += sum(tensor.nbytes for tensor in added.values())

    def finish(self) -> None:
        """Write what is left, and name the files as transformers does."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            (self._folder / _partial(1)).rename(self._folder / SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, start=1):
            file = f"model-{number:05}-of-{count:05}.safetensors"
            (self._folder / _partial(number)).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._bytes}, "weight_map": weight_map}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")

    def _flush(self) -> None:
        self._shards.append(list(self._shard))
        file = self._folder / _partial(len(self._shards))
        save_file(self._shard, file, metadata={"format": "pt"})
        file.chmod(
            self._folder.stat().st_mode & 0o666
        )  # whoever may see the folder; safetensors says owner only
        self._shard = {}


def _partial(number: int) -> str:
    return f"shard-{number:05}.partial"
