"""The calls of a compiled model that its dense model serves, because it was measured to be faster."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparseflow.runtime.calling.ambient import Ambient
from sparseflow.runtime.calling.structure import ATOMS

Key = tuple[Hashable, ...]
"""How a call passes its arguments, their layouts and values, and the autocast around it."""


@dataclass
class DenseCalls:
    """What serves calls by their arguments' sizes."""

    _served: dict[Key, Callable[..., object]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether any call is served densely."""
        return bool(self._served)

    def add(self, key: Key, run: Callable[..., object]) -> None:
        """Serve calls with a key by `run`."""
        self._served[key] = run

    def forget(self, key: Key | None) -> None:
        """Serve calls with a key by programs again."""
        if key is not None:
            self._served.pop(key, None)

    def find(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Callable[..., object] | None:
        """Return what serves a call, called with the same arguments; None for the programs."""
        key = call_key(args, kwargs)
        return None if key is None else self._served.get(key)


def call_key(args: Sequence[object], kwargs: Mapping[str, object]) -> Key | None:
    """Return what calls have in common that take the same time.

    Returns:
        None for a call with anything but plain tensors and atoms: a cache, for one, holds state, which
        another way of running it might change.
    """
    parts: list[Hashable] = [Ambient.of_casts(), len(args), *sorted(kwargs)]
    for value in (*args, *(kwargs[name] for name in sorted(kwargs))):
        if type(value) is Tensor and value.layout is torch.strided:
            parts.append((value.shape, value.stride(), value.dtype, value.device))
        elif type(value) in ATOMS:
            parts.append((type(value), value))
        else:
            return None
    return tuple(parts)
