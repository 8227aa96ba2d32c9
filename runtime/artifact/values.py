"""Serialise the Python values that an artifact's programs may hold as JSON; none are executable."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.class_lookup import ClassLookup, qualified

_TORCH_KINDS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
T = TypeVar("T")

_PLAIN = (type(None), bool, int, str)


def encode(value: object, reference: Callable[[object], object] | None = None) -> object:
    """Encode a value as JSON; types that JSON lacks become an object with one key.

    Args:
        value: made of None, numbers, strings, bytes, lists, tuples, dtypes, layouts, devices and classes.
        reference: encodes other values, or returns None.

    Raises:
        ArtifactError: a value of another type.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is complex:
        return {"complex": [encode(value.real), encode(value.imag)]}
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, list):  # torch.fx has its own class for them
        return [encode(item, reference) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, reference) for item in value]}
    if kind is torch.device:
        return {"device": str(value)}
    for name, torch_kind in _TORCH_KINDS.items():
        if kind is torch_kind:
            return {name: str(value).removeprefix("torch.")}
    if isinstance(value, type):
        return {"class": qualified(value)}
    found = None if reference is None else reference(value)
    if found is None:
        raise ArtifactError(
            f"a value of type {kind.__name__}", "it can't be part of an artifact", "pass tensors and numbers"
        )
    return found


class Decoder:
    """Decode values that `encode` encoded.

    Args:
        kinds: finds classes.
        devices: maps the artifact's devices to local ones.
        reference: decodes the objects that `encode`'s `reference` made, by their key.
    """

    def __init__(
        self,
        kinds: ClassLookup,
        devices: Callable[[str], torch.device],
        reference: dict[str, Callable[[object], object]] | None = None,
    ) -> None:
        self._read: dict[str, Callable[..., object]] = {
            "float": float,
            "complex": lambda parts: complex(*(require(self.decode(part), float) for part in parts)),
            "bytes": bytes.fromhex,
            "size": lambda sizes: torch.Size([require(size, int) for size in sizes]),
            "tuple": lambda items: tuple(map(self.decode, require(items, list))),
            "device": devices,
            "class": kinds.plain,
            **{name: _torch_constant(kind) for name, kind in _TORCH_KINDS.items()},
            **(reference or {}),
        }

    def decode(self, value: object) -> Any:
        """Decode a value.

        Raises:
            KeyError, TypeError, ValueError: the data is malformed.
        """
        if isinstance(value, list):
            return list(map(self.decode, value))
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        return self._read[kind](content)


def require(value: object, kind: type[T]) -> T:
    """Return the value after checking its type; bools don't count as ints.

    Raises:
        TypeError: it has another type.
    """
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is not of type {kind.__name__}")
    return value


def identifier(name: object) -> str:
    """Return the name after checking that it is an identifier, as it becomes part of generated code.

    Raises:
        ValueError: it isn't one.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r:.80} isn't an identifier")
    return name


def _torch_constant(kind: type) -> Callable[[object], object]:
    def read(name: object) -> object:
        value = vars(torch)[require(name, str)]
        return require(value, kind)

    return read
