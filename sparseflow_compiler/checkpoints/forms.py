"""The forms in which checkpoints hold 2:4 weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparseflow.errors import CheckpointError
from sparseflow.integrations.compressed_tensors.bitmask import from_bitmask, to_bitmask
from sparseflow.nn.linear import VALUES
from sparseflow.runtime import PackedWeight
from sparseflow.support.documents import Document

FormatName = Literal["dense", "sparse-24-bitmask", "sparseflow"]

FORMAT_VERSION = 2
"""The version of the form ``sparseflow``."""

WRITTEN_AS = "0.13.0"
"""The version of compressed-tensors that is declared; later versions dropped ``sparse-24-bitmask``."""


@dataclass(frozen=True)
class Format:
    """How a weight ``<layer>.weight`` is stored.

    Attributes:
        name: name of the form.
        suffixes: the names of the weight's tensors, after the layer's name.
        packed: returns the packed layers, given the declaration in config.json and the names of all tensors.
        encode: returns the weight's tensors, in order.
        decode: returns the weight, given the layer's name and those tensors.
        config: returns the ``quantization_config`` of config.json, given the layers and their share of all
            entries.
    """

    name: FormatName
    suffixes: tuple[str, ...]
    packed: Callable[[Mapping[str, object], Iterable[str]], list[str]]
    encode: Callable[[PackedWeight], tuple[Tensor, ...]]
    decode: Callable[[str, Sequence[Tensor]], PackedWeight]
    config: Callable[[Sequence[str], float], dict[str, object]]


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


def _encode_bitmask(packed: PackedWeight) -> tuple[Tensor, ...]:
    return (*to_bitmask(packed), torch.tensor(packed.shape).reshape(-1, 1))


def _decode_bitmask(layer: str, tensors: Sequence[Tensor]) -> PackedWeight:
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


def _bitmask_config(layers: Sequence[str], share: float) -> dict[str, object]:
    sparsity = {
        "format": "sparse-24-bitmask",
        "global_sparsity": share / 2,
        "ignore": [],
        "registry_requires_subclass": False,
        "sparsity_structure": "2:4",
        "targets": list(layers),
    }
    return {"quant_method": "compressed-tensors", "sparsity_config": sparsity, "version": WRITTEN_AS}


def _decode_packed(layer: str, tensors: Sequence[Tensor]) -> PackedWeight:
    values = tensors[0]
    return PackedWeight(tensors, 2 * values.shape[-1] if values.dim() else 0, name=layer)


def packed_config(layers: Sequence[str], share: float = 0.0) -> dict[str, object]:
    """Return the declaration of packed layers in config.json; `SparseFlowConfig` adds its options."""
    return {
        "quant_method": "sparseflow",
        "format_version": FORMAT_VERSION,
        "pattern": "2:4",
        "layers": list(layers),
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
