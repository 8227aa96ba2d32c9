"""The forms in which checkpoints hold weights of a sparsity pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sparseflow.errors import CheckpointError
from sparseflow.integrations.compressed_tensors.bitmask import from_bitmask, to_bitmask
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.pattern import PATTERNS
from sparseflow.support.documents import Document

FormatName = Literal["dense", "sparse-24-bitmask", "sparseflow"]

FORMAT_VERSION = 2
"""The version of the form ``sparseflow``."""

PATTERNS_KEY = "patterns"
"""The entry of config.json about layers whose pattern isn't 2:4: ``{name: [pattern, in features]}``."""

_OTHERS = tuple(pattern.name for pattern in PATTERNS if pattern.name != "2:4")

WRITTEN_AS = "0.13.0"
"""The version of compressed-tensors that is declared; later versions dropped ``sparse-24-bitmask``."""


class Kind(NamedTuple):
    """What the tensors of a packed weight don't say themselves.

    Attributes:
        pattern: its pattern, which is the name of its format.
        in_features: K.
    """

    pattern: str
    in_features: int

    @classmethod
    def of(cls, packed: PackedWeight) -> Kind:
        """Return that of a weight."""
        return cls(packed.format.name, packed.in_features)


@dataclass(frozen=True)
class Format:
    """How a weight ``<layer>.weight`` is stored.

    Attributes:
        name: name of the form.
        suffixes: the names of the weight's tensors, after the layer's name.
        packed: returns the packed layers, given the declaration in config.json and the names of all tensors.
        encode: returns the weight's tensors, in order.
        decode: returns the weight, given the layer's name, those tensors and the declaration.
        config: returns the ``quantization_config`` of config.json, given the layers and their share of all
            entries.
        patterns: those whose weights it stores.
    """

    name: FormatName
    suffixes: tuple[str, ...]
    packed: Callable[[Mapping[str, object], Iterable[str]], list[str]]
    encode: Callable[[PackedWeight], tuple[Tensor, ...]]
    decode: Callable[[str, Sequence[Tensor], Document], PackedWeight]
    config: Callable[[Mapping[str, Kind], float], dict[str, object]]
    patterns: tuple[str, ...] = ("2:4",)


def _with_a_mask(declared: Mapping[str, object], tensors: Iterable[str]) -> list[str]:
    return [name.removesuffix(".bitmask") for name in tensors if name.endswith(".bitmask")]


def _declared(declared: Mapping[str, object], tensors: Iterable[str]) -> list[str]:
    return require_layers(declared.get("layers"), "config.json")


def require_layers(layers: object, subject: str) -> list[str]:
    """Return the packed layers that a config.json lists, after checking that it is a list of names.

    Raises:
        CheckpointError: it isn't.
    """
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise CheckpointError(
            subject, "layers must be a list of names", "get a complete copy of the checkpoint"
        )
    return layers


def require_patterns_of(found: object, subject: str) -> dict[str, Kind]:
    """Return the layers whose pattern isn't 2:4, as a config.json lists them: ``{name: [pattern, K]}``.

    Raises:
        CheckpointError: it lists something else.
    """
    if not isinstance(found, dict):
        raise _not_patterns(subject)
    kinds = {}
    for name, kind in found.items():
        if not isinstance(kind, list | tuple) or len(kind) != 2:
            raise _not_patterns(subject)
        pattern, in_features = kind
        if pattern not in _OTHERS or type(in_features) is not int or in_features < 1:
            raise _not_patterns(subject)
        kinds[name] = Kind(pattern, in_features)
    return kinds


def _not_patterns(subject: str) -> CheckpointError:
    known = " or ".join(_OTHERS)
    return CheckpointError(
        subject,
        f'patterns must give each layer that it names {known} and its in features, as in ["6:8", 4096]',
        "get a complete copy of the checkpoint",
    )


def _encode_bitmask(packed: PackedWeight) -> tuple[Tensor, ...]:
    return (*to_bitmask(packed), torch.tensor(packed.shape).reshape(-1, 1))


def _decode_bitmask(layer: str, tensors: Sequence[Tensor], declared: Document) -> PackedWeight:
    values, mask, shape = tensors
    sizes = shape.flatten().tolist()
    if (
        shape.is_floating_point()
        or len(sizes) != 2
        or min(sizes) < 0
        or values.dim() != 2
        or sizes[0] != values.shape[0]
    ):
        raise CheckpointError(
            f"layer {layer}",
            f"its shape is {sizes}, but its values are {list(values.shape)}",
            "get a complete copy of the checkpoint",
        )
    return from_bitmask(values, mask, sizes[1], name=layer)


def _bitmask_config(layers: Mapping[str, Kind], share: float) -> dict[str, object]:
    sparsity = {
        "format": "sparse-24-bitmask",
        "global_sparsity": share / 2,
        "ignore": [],
        "registry_requires_subclass": False,
        "sparsity_structure": "2:4",
        "targets": list(layers),
    }
    return {"quant_method": "compressed-tensors", "sparsity_config": sparsity, "version": WRITTEN_AS}


def _decode_packed(layer: str, tensors: Sequence[Tensor], declared: Document) -> PackedWeight:
    values = tensors[0]
    kinds = require_patterns_of(declared.get(PATTERNS_KEY, {}), "config.json")
    kind = kinds.get(layer) or Kind("2:4", 2 * values.shape[-1] if values.dim() else 0)
    return PackedWeight(tensors, kind.in_features, kind.pattern, name=layer)


def packed_config(layers: Mapping[str, Kind], share: float = 0.0) -> dict[str, object]:
    """Return the declaration of packed layers in config.json; `SparseFlowConfig` adds its options."""
    return {
        "quant_method": "sparseflow",
        "format_version": FORMAT_VERSION,
        "layers": list(layers),
        PATTERNS_KEY: {name: list(kind) for name, kind in layers.items() if kind.pattern in _OTHERS},
    }


BITMASK = Format(
    "sparse-24-bitmask",
    (".compressed", ".bitmask", ".shape"),
    _with_a_mask,
    _encode_bitmask,
    _decode_bitmask,
    _bitmask_config,
)
PACKED = Format(
    "sparseflow",
    (f".{VALUES}", ".weight.positions"),
    _declared,
    lambda packed: packed.portable(),
    _decode_packed,
    packed_config,
    tuple(pattern.name for pattern in PATTERNS),
)
FORMATS: dict[str, Format] = {form.name: form for form in (BITMASK, PACKED)}


def format_of(config: Mapping[str, object], subject: str) -> Format | None:
    """Return the form that a config.json declares; None for plain tensors.

    Raises:
        CheckpointError: the weights are quantised, or have an unsupported form or version.
    """
    declared = declared_in(config)
    if not declared:
        return None
    if not isinstance(declared, dict):
        raise CheckpointError(subject, "its quantization_config isn't an object", "get a complete copy")
    method = declared.get("quant_method")
    if method == "sparseflow":
        require_version(declared.get("format_version"), subject)
        return PACKED
    if method not in ("compressed-tensors", None):
        raise CheckpointError(
            subject, f"its weights are quantised by {method!r:.40}", "give a checkpoint in 16 or 32 bits"
        )
    return _compressed(declared, subject)


def declared_in(config: Document) -> Document:
    """Return the entry of config.json about the form of the weights."""
    found: Document = config.get("quantization_config") or config.get("compression_config") or {}
    return found


def require_version(version: object, subject: str) -> None:
    """Refuse an unsupported version of the form ``sparseflow``.

    Raises:
        CheckpointError: the version is unsupported; the error names the supported one.
    """
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            subject,
            f"its format version is {version!r:.20}; this SparseFlow reads version {FORMAT_VERSION}",
            "update SparseFlow, or save it again",
        )


def _compressed(declared: Mapping[str, object], subject: str) -> Format | None:
    sparsity = declared.get("sparsity_config") or {}
    form = sparsity.get("format") if isinstance(sparsity, dict) else sparsity
    if form in (None, "dense"):
        return None
    if form != BITMASK.name:
        raise CheckpointError(
            subject, f"its sparse format {form!r:.40} isn't read", f"save it as {BITMASK.name}, or dense"
        )
    return BITMASK
