"""Read checkpoints of transformers models by layer, in every form of packed weights, and convert them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

from torch import Tensor

from sparseflow.checkpoints.forms import FORMATS, Format, FormatName, Kind, declared_in, format_of
from sparseflow.checkpoints.fp8_weights import (
    Fp8Name,
    Fp8Weights,
    declared_fp8,
    dequantized,
    fp8_weights,
    from_mask,
    model_names,
)
from sparseflow.checkpoints.shards import CONFIG, INDEX, SHARD_BYTES, ShardReader, ShardWriter, read_json
from sparseflow.errors import CheckpointError
from sparseflow.runtime import PackedWeight, is_24
from sparseflow.runtime.checks import NATIVE_DTYPES, dtype_name
from sparseflow.runtime.packed import pack
from sparseflow.runtime.pattern import pattern_of
from sparseflow.support.arguments import require_one_of, require_patterns, with_defaults

_WEIGHT = ".weight"
_TENSOR_FILES = (".safetensors", ".bin", ".pt", ".pth", ".partial")


@dataclass(frozen=True)
class CheckpointLayer:
    """A matrix of a checkpoint, named ``<name>.weight`` there or in a model.

    Attributes:
        name: name of the layer.
        N: out features.
        K: in features.
        dtype: such as "bfloat16".
        packed: whether it is packed in the checkpoint.
        is_24: whether it is 2:4.
    """

    name: str
    N: int
    K: int
    dtype: str
    packed: bool
    is_24: bool


class Checkpoint:
    """A folder of safetensors with config.json; each weight is read on access.

    Args:
        folder: written by ``save_pretrained`` or llm-compressor; its weights may be in fp8 (`fp8_weights`).

    Raises:
        CheckpointError: it is incomplete or malformed, or its weights have an unsupported format.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._tensors = ShardReader(self.folder)
        config = read_json(self.folder, CONFIG) if (self.folder / CONFIG).exists() else {}
        self._declared = declared = declared_in(config)
        self._fp8: Fp8Weights | None = None
        if isinstance(declared, Mapping) and declared_fp8(declared) is not None:
            tensors = self._tensors
            self._fp8 = fp8_weights(config, declared, tensors.dtypes(), tensors.metadata(), self._subject)
        self._format = None if self._fp8 is not None else format_of(config, self._subject)
        self._packed = {} if self._format is None else self._parts(self._format)

    @property
    def format(self) -> FormatName | Fp8Name:
        """The form of its weights: of 2:4 ones, or of those in fp8."""
        if self._fp8 is not None:
            return self._fp8.name
        return "dense" if self._format is None else self._format.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors as in the model; a packed layer's is ``<layer>.weight``."""
        if self._fp8 is not None:
            return tuple(model_names(self._tensors.names, self._fp8))
        parts = {part: name for name, found in self._packed.items() for part in found}
        return tuple(dict.fromkeys(parts.get(name, name) for name in self._tensors.names))

    def weight(self, name: str) -> Tensor | PackedWeight:
        """Read a tensor by its name in the model, to the CPU; packed if it is packed in the checkpoint.

        Weights in fp8 come dequantised, in the dtype that config.json gives the model, and dense.

        Raises:
            CheckpointError: there is no such tensor, or scales don't fit their weight.
            ArgumentError, WeightError: a packed weight's tensors don't fit together, or hold NaN or Inf.
        """
        if self._fp8 is not None and name in self._fp8.weights:
            return self._dequantized(name, self._fp8)
        if name not in self._packed:
            return self._tensors.tensor(name)
        assert self._format is not None, "only formats pack"
        tensors = [self._tensors.tensor(part) for part in self._packed[name]]
        return self._format.decode(name.removesuffix(_WEIGHT), tensors, self._declared)

    def _dequantized(self, name: str, form: Fp8Weights) -> Tensor:
        weight = form.weights[name]
        values, scale = self._tensors.tensor(weight.values), self._tensors.tensor(weight.scale)
        if weight.mask is not None:
            values = from_mask(values, self._tensors.tensor(weight.mask), name.removesuffix(_WEIGHT))
        return dequantized(values, scale, form.block, form.dtype, f"{self._subject}, {name}")

    def dense(self, name: str) -> Tensor:
        """Read a tensor by its name in the model, unpacked if it is packed.

        Raises:
            CheckpointError: there is no such tensor.
        """
        found = self.weight(name)
        return found.unpack() if isinstance(found, PackedWeight) else found

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors, dense, for ``load_state_dict``; `sparseflow.compile` packs them again."""
        return {name: self.dense(name) for name in self.names}

    def layers(self) -> list[CheckpointLayer]:
        """Return every matrix named ``….weight`` with whether it is 2:4; reads all of them once.

        Embeddings are included, because a checkpoint doesn't say what a matrix is for.
        """
        return [found for name in self.names if (found := self._layer(name)) is not None]

    def _layer(self, name: str) -> CheckpointLayer | None:
        if not name.endswith(_WEIGHT) or not self._is_matrix(name):
            return None
        weight = self.weight(name)
        packed = isinstance(weight, PackedWeight)
        n, k = weight.shape
        sparse = weight.format.name == "2:4" if isinstance(weight, PackedWeight) else is_24(weight)
        return CheckpointLayer(name.removesuffix(_WEIGHT), n, k, dtype_name(weight.dtype), packed, sparse)

    def _is_matrix(self, name: str) -> bool:
        if name in self._packed:
            return True
        scaled = self._fp8.weights.get(name) if self._fp8 is not None else None
        return len(self._tensors.shape(name if scaled is None else scaled.values)) == 2

    def _parts(self, form: Format) -> dict[str, tuple[str, ...]]:
        """Return the names of each packed weight's tensors, by the weight's name."""
        names = set(self._tensors.names)
        layers = sorted(form.packed(self._declared, names))
        found = {layer + _WEIGHT: tuple(layer + suffix for suffix in form.suffixes) for layer in layers}
        for parts in found.values():
            for part in parts:
                if part not in names:
                    raise CheckpointError(self._subject, f"it has no tensor {part}", "get a complete copy")
        return found

    @property
    def _subject(self) -> str:
        return f"checkpoint {self.folder}"


def is_fp8(folder: str | os.PathLike[str]) -> bool:
    """Return whether a checkpoint's config.json declares weights in fp8; False without one.

    Raises:
        CheckpointError: config.json can't be read.
    """
    path = Path(folder)
    declared = declared_in(read_json(path, CONFIG)) if (path / CONFIG).exists() else {}
    return isinstance(declared, Mapping) and declared_fp8(declared) is not None


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: FormatName,
    *,
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Convert a checkpoint to another form, and copy its other files. Nothing is pruned.

    At most a shard and one weight are in memory. The folder appears once it is complete. Weights in fp8 are
    dequantised, whatever the target: ``sf.compile(format="2:4-fp8")`` finds the same numbers again where a
    scale was of a matrix or a row.

    Args:
        source: a checkpoint in any of the forms.
        target: a folder that doesn't exist yet, or an empty one.
        format: ``"dense"``: plain tensors with zeros. ``"sparse-24-bitmask"``: the form of
            compressed-tensors. ``"sparseflow"``: the form that transformers loads packed with
            `SparseFlowConfig`. In the latter two every 2:4 matrix ``….weight`` in float32, bfloat16 or
            float16 with K divisible by 4 is packed, in the last every 4:6 and 6:8 one, too.
        skip: fnmatch patterns of layer names that aren't packed, in addition to `DEFAULT_SKIP`; layers that
            are packed in the source stay packed.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        shard_bytes: the largest size of a file.

    Returns:
        The names of the layers that are packed in `target`.

    Raises:
        ArgumentError: an option has a wrong value.
        CheckpointError: the source can't be read, or the target can't be written.
        WeightError: a weight to be packed holds NaN or Inf, or a packed one is malformed.
    """
    require_one_of("checkpoints.convert_checkpoint", "format", format, get_args(FormatName))
    require_patterns("checkpoints.convert_checkpoint", skip)
    skip = with_defaults(skip, skip_defaults)
    checkpoint = Checkpoint(source)
    form = FORMATS.get(format)
    with _new_folder(Path(target)) as folder:
        writer = ShardWriter(folder, shard_bytes)
        layers: dict[str, Kind] = {}
        total = packed = 0
        for name in checkpoint.names:
            stored = _in_form(name, checkpoint.weight(name), form, skip)
            total += stored.shape.numel()
            if isinstance(stored, PackedWeight):
                assert form is not None, "only forms pack"
                layer = name.removesuffix(_WEIGHT)
                writer.add(_tensors(layer, stored, form))
                packed += stored.shape.numel()
                layers[layer] = Kind.of(stored)
            else:
                writer.add({name: stored})
        writer.finish()
        _copy_others(checkpoint.folder, folder)
        declared = form.config(layers, packed / max(1, total)) if form else None
        _write_config(checkpoint.folder, folder, declared)
    return list(layers)


def _in_form(
    name: str, weight: Tensor | PackedWeight, form: Format | None, skip: Sequence[str]
) -> Tensor | PackedWeight:
    """Return a weight as a form has it: packed, if that stores its pattern."""
    patterns = () if form is None else form.patterns
    if isinstance(weight, PackedWeight):
        return weight if weight.format.name in patterns else weight.unpack()
    if not patterns or not _packable(name, weight, skip):
        return weight
    found = pattern_of(weight)
    if found is None or found.name not in patterns:
        return weight
    return pack(weight, found.name, name=name.removesuffix(_WEIGHT))


def _tensors(layer: str, weight: PackedWeight, form: Format) -> dict[str, Tensor]:
    return {layer + suffix: t for suffix, t in zip(form.suffixes, form.encode(weight), strict=True)}


def _packable(name: str, weight: Tensor, skip: Sequence[str]) -> bool:
    """Return whether a tensor is a matrix that may be packed if it has a pattern."""
    is_matrix = name.endswith(_WEIGHT) and weight.dim() == 2 and weight.dtype in NATIVE_DTYPES
    skipped = any(fnmatchcase(name.removesuffix(_WEIGHT), pattern) for pattern in skip)
    return is_matrix and weight.shape[1] % 4 == 0 and not skipped


def _copy_others(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name not in (CONFIG, INDEX) and not path.name.endswith(_TENSOR_FILES):
            shutil.copyfile(path, folder / path.name)


def _write_config(source: Path, folder: Path, declared: dict[str, object] | None) -> None:
    config = read_json(source, CONFIG) if (source / CONFIG).exists() else {}
    for key in ("quantization_config", "compression_config"):
        config.pop(key, None)
    if declared is not None:
        config["quantization_config"] = declared
    if config:
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Create a folder that gets its final name when the block succeeds."""
    subject = f"checkpoint {target}"
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(subject, "it exists already", "choose a new folder")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as work:
            new = Path(work) / "new"
            new.mkdir()
            yield new
            new.rename(target)
    except OSError as error:
        raise CheckpointError(
            subject, f"it can't be written: {error.strerror}", "choose another folder"
        ) from error
