"""Python values as JSON: everything that an artifact's programs may hold, and nothing that could run."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable
from typing import Any

import torch

from sparseflow.errors import ArtifactError
from sparseflow.runtime.artifact.kinds import Kinds, qualified

_TORCH_KINDS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_PLAIN = (type(None), bool, int, str)


def encode(value: Any, reference: Callable[[object], object] | None = None) -> object:
    """A value as JSON has it; what JSON lacks becomes an object of one key.

    Args:
        value: made of None, numbers, strings, bytes, lists, tuples, dtypes, layouts, devices and classes.
        reference: encodes what is none of these, or returns None.

    Raises:
        ArtifactError: a value of another type.
    """
    kind = type(value)
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {"float": str(value)}
    if kind is complex:
        return {"complex": [encode(value.real), encode(value.imag)]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is torch.Size:
        return {"size": list(value)}
    if isinstance(value, list):  # torch.fx has a class of its own for them
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
    """Reads what `encode` wrote.

    Args:
        kinds: finds classes.
        devices: where the artifact's devices are here.
        reference: decodes the objects that `encode`'s `reference` made, by their key.
    """

    def __init__(
        self,
        kinds: Kinds,
        devices: Callable[[str], torch.device],
        reference: dict[str, Callable[[object], object]] | None = None,
    ) -> None:
        self._read: dict[str, Callable[[Any], object]] = {
            "float": float,
            "complex": lambda parts: complex(*map(self.decode, parts)),
            "bytes": bytes.fromhex,
            "size": lambda sizes: torch.Size([require(size, int) for size in sizes]),
            "tuple": lambda items: tuple(map(self.decode, require(items, list))),
            "device": devices,
            "class": kinds.plain,
            **{name: _torch_constant(kind) for name, kind in _TORCH_KINDS.items()},
            **(reference or {}),
        }

    def decode(self, value: object) -> Any:
        """The value behind a piece of JSON.

        Raises:
            KeyError, TypeError, ValueError: `encode` can't have written it.
        """
        if isinstance(value, list):
            return list(map(self.decode, value))
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        return self._read[kind](content)


def require(value: object, kind: type) -> Any:
    """The value, which must be of a type; bools are no ints.

    Raises:
        TypeError: it is of another.
    """
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is not of type {kind.__name__}")
    return value


def identifier(name: object) -> str:
    """The name, which must be one that generated code can have; anything else could be code itself.

    Raises:
        ValueError: it isn't.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r:.80} is no name")
    return name


def _torch_constant(kind: type) -> Callable[[object], object]:
    def read(name: object) -> Any:
        value = vars(torch)[require(name, str)]
        return require(value, kind)

    return read
