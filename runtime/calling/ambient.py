"""What surrounds a call and changes what a model computes: autocast, and the default dtype.

A program's graph has the casts of the autocast under which it was captured: it serves calls under an equal
one, and runs with autocast off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch

_DEVICES = ("cpu", "cuda")


class Ambient(NamedTuple):
    """What a program was captured under.

    Attributes:
        cpu: the dtype of autocast on the CPU; None where it is off.
        cuda: the same on GPUs.
        default: dtype of tensors that are made without one.
    """

    cpu: torch.dtype | None = None
    cuda: torch.dtype | None = None
    default: torch.dtype = torch.float32

    @classmethod
    def now(cls) -> Ambient:
        """What a call is under."""
        return cls(_autocast("cpu"), _autocast("cuda"), torch.get_default_dtype())

    def violation(self, now: Ambient) -> str | None:
        """Return how a call's surroundings differ from these, or None if they don't."""
        for device, ours, theirs in zip(_DEVICES, self, now, strict=False):
            if ours != theirs:
                return f"autocast on {device} is {_word(theirs)}, not {_word(ours)}"
        return (
            None if self.default == now.default else f"the default dtype is {now.default}, not {self.default}"
        )


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _word(dtype: torch.dtype | None) -> str:
    return "off" if dtype is None else str(dtype)


def autocast_is_on() -> bool:
    """Whether any autocast is on."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


@contextmanager
def autocast_off() -> Iterator[None]:
    """Turn autocast off, as for operators whose casts were traced."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
