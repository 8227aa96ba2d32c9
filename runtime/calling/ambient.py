"""Ambient state that changes what a model computes: autocast, the default dtype, whether gradients are on.

A program's graph has the casts of the autocast under which it was captured: it serves calls under an equal
autocast state, and runs with autocast off. It never records gradients: whether they are on matters to what
forward asked when it was captured, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch

from sparseflow.runtime.calling.gradients import GradientMode

_DEVICES = ("cpu", "cuda")


class Ambient(NamedTuple):
    """The ambient state under which a program was captured.

    Attributes:
        cpu: the dtype of autocast on the CPU; None where it is off.
        cuda: the same on GPUs.
        default: torch's default dtype.
        gradients: whether gradients are on; None where forward didn't ask.
    """

    cpu: torch.dtype | None = None
    cuda: torch.dtype | None = None
    default: torch.dtype = torch.float32
    gradients: GradientMode | None = None

    @classmethod
    def now(cls) -> Ambient:
        """Return the current ambient state."""
        return cls.of_casts()._replace(gradients=GradientMode.now())

    @classmethod
    def of_casts(cls) -> Ambient:
        """Return what of it matters to a program whose forward asked for no gradients."""
        return cls(_autocast("cpu"), _autocast("cuda"), torch.get_default_dtype())

    def violation(self, now: Ambient) -> str | None:
        """Return how another ambient state differs from this one, or None."""
        for device, ours, theirs in zip(_DEVICES, self[:2], now[:2], strict=True):
            if ours != theirs:
                return f"autocast on {device} is {_word(theirs)}, not {_word(ours)}"
        if self.default != now.default:
            return f"the default dtype is {now.default}, not {self.default}"
        if self.gradients not in (None, now.gradients) and now.gradients is not None:
            return f"gradients are {now.gradients.value}, not {self.gradients.value}, and forward asks"
        return None


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _word(dtype: torch.dtype | None) -> str:
    return "off" if dtype is None else str(dtype)


def autocast_is_on() -> bool:
    """Return whether any autocast is on."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


@contextmanager
def autocast_off() -> Iterator[None]:
    """Turn autocast off, for operators whose casts are in the trace."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
