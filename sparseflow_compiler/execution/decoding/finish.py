"""Learn on the host whether sequences go on, without waiting for a GPU at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

EVERY = 8
"""Steps on a GPU between two looks; what is decoded after the end, at most twice as many, is cut off."""


class Watch:
    """Look at a flag on the device.

    Args:
        unfinished: bool `[batch]`, which steps write.
        ends: whether any sequence can end before the last step.
        waits: whether the host waits for every step anyway.
    """

    def __init__(self, unfinished: Tensor, *, ends: bool, waits: bool) -> None:
        self._unfinished, self._ends = unfinished, ends
        self._later = unfinished.device.type == "cuda" and not waits
        self._steps = 0
        self._flag: Tensor | None = None
        self._event: Any = None

    def over(self) -> bool:
        """Return whether all sequences are known to have ended; called once a step."""
        if not self._ends:
            return False
        if not self._later:
            return not bool(self._unfinished.any())
        self._steps += 1
        if self._event is not None and self._event.query():
            self._event = None
            if self._flag is not None and not bool(self._flag):
                return True
        if self._event is None and self._steps % EVERY == 0:
            self._look()
        return False

    def _look(self) -> None:
        """Have the flag copied to the host when the device gets there."""
        if self._flag is None:
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._flag.copy_(self._unfinished.any(), non_blocking=True)
        self._event = _CUDA.Event()
        self._event.record()
