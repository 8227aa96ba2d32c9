"""Keep static caches, with what was made for them, from one call of `generate` to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparseflow.execution.decoding.state import State
from sparseflow.execution.decoding.step import Step
from sparseflow.integrations.transformers.static_caches import empty

KEPT = 4
"""Slots that are kept."""

LONGER = 4
"""A kept slot serves a call if it is at most so many times as long as one that would be made for it."""


@dataclass
class Slot:
    """A static cache with what was made for it.

    Attributes:
        batch: sequences that it holds.
        length: tokens of each.
        cache: transformers' object.
        mask: which tokens are no padding, int64 `[batch, length]`.
        states: of the ways to choose a token that were used.
        steps: bound to the cache and one of those states; the key says too whether there is padding.
    """

    batch: int
    length: int
    cache: Any
    mask: Tensor
    states: dict[object, State] = field(default_factory=dict)
    steps: dict[object, Step] = field(default_factory=dict)


class Slots:
    """The slots of a model that no call uses at the moment."""

    def __init__(self) -> None:
        self._free: list[Slot] = []
        self._lock = threading.Lock()

    def take(self, batch: int, length: int, made: int, make: Callable[[], Any]) -> Slot:
        """Return the shortest free slot for a batch size and at least a length, emptied, or a new one.

        Args:
            batch: sequences.
            length: tokens that each has at most.
            made: tokens that a new slot holds.
            make: makes its cache.
        """
        with self._lock:
            fits = range(length, LONGER * made + 1)
            fitting = [slot for slot in self._free if slot.batch == batch and slot.length in fits]
            found = min(fitting, key=lambda slot: slot.length, default=None)
            self._free = [slot for slot in self._free if slot is not found]
        if found is not None:
            empty(found.cache)
            return found
        # A tensor created in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            cache = make()
            mask = torch.ones(batch, made, dtype=torch.int64, device=cache.layers[0].keys.device)
        return Slot(batch, made, cache, mask)

    def keep(self, slot: Slot) -> None:
        """Take a slot back."""
        with self._lock:
            self._free = [*self._free, slot][-KEPT:]

    def drop(self, cache: object) -> None:
        """Forget the slot of a cache that was given away."""
        with self._lock:
            self._free = [slot for slot in self._free if slot.cache is not cache]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._free = []
