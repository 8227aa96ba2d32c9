"""The neurons on the fast tier: slots that hold one each, and how they follow what tokens need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.contextual import ops
from sparseflow.runtime.contextual.tiered.source import Source
from sparseflow.runtime.contextual.weights import ContextualWeights

INDEX_BYTES = 4
NEVER = -1


class DifferentialCache:
    """Slots on the fast tier. What is wanted and absent overwrites, in place, what is there and not wanted.

    A neuron that is no longer wanted stays until its slot is needed: free slots go first, then those whose
    neuron was wanted the longest ago. Nothing here waits for a GPU, and sizes of tensors depend on none of
    its results, so a CUDA graph can hold an update.

    Args:
        source: the slower tier.
        capacity: bytes on the fast tier, all of the cache counted. As many slots as fit, at most I.
        device: the fast tier.

    Attributes:
        slots: S.
        weights: the slots' neurons as an MLP of S neurons.

    Raises:
        ArgumentError: the capacity holds no neuron, or the device can't read from the source.
    """

    def __init__(self, source: Source, capacity: int, device: torch.device | str = "cpu") -> None:
        outline, self._source, self._device = source.outline, source, torch.device(device)
        source.require_reachable(self._device)
        bias = outline.down_bias
        # Behind the last neuron and the last slot there is one that stands for none.
        fixed = (0 if bias is None else bias.nbytes) + INDEX_BYTES * (outline.neurons + 4)
        each = outline.neuron_bytes + 2 * INDEX_BYTES
        self.neurons = outline.neurons
        self.slots = min(self.neurons, (capacity - fixed) // each)
        if self.slots < 1:
            raise ArgumentError(
                "capacity",
                f"expected at least {fixed + each} bytes, one neuron's, got {capacity}",
                "raise it",
            )
        self._rows = {
            name: torch.zeros(self.slots, width, dtype=dtype, device=self._device)
            for name, (width, dtype) in outline.rows.items()
        }
        self._slot_of = self._index(self.neurons + 1, self.slots)
        self._neuron_of = self._index(self.slots + 1, self.neurons)
        self._wanted_at = self._index(self.slots + 1, NEVER)
        self._updates = self._index(1, 0)
        one_dimensional = {
            name: rows if name in ("gate", "up", "down_t") else rows[:, 0]
            for name, rows in self._rows.items()
        }
        self._down_bias = None if bias is None else bias.to(self._device)
        everything: dict[str, Any] = {"gate": None, **one_dimensional, "down_bias": self._down_bias}
        self.weights = ContextualWeights(**everything, activation=outline.activation)

    def _index(self, length: int, value: int) -> Tensor:
        return torch.full((length,), value, dtype=torch.int32, device=self._device)

    @property
    def nbytes(self) -> int:
        """Bytes on the fast tier."""
        maps = (self._slot_of, self._neuron_of, self._wanted_at, self._updates)
        return self.weights.nbytes + sum(tensor.nbytes for tensor in maps)

    @property
    def resident(self) -> Tensor:
        """Which neurons are in a slot: ``[I]`` bool."""
        return self._slot_of[:-1] < self.slots

    def update(self, wanted: Tensor) -> None:
        """Bring wanted neurons to the fast tier; where they are more than S, the lowest that fit.

        Args:
            wanted: ``[I]`` bool.

        Raises:
            ArgumentError: not that.
            TierError: the slower tier can't be read. The slots that were to be overwritten are free then,
                the others are what they were.
        """
        self._require(wanted)
        incoming, arriving = listed(wanted & ~self.resident)
        spare, room = self._spare(wanted)
        count = torch.minimum(arriving, room)
        moved = torch.arange(self.slots, device=self._device) < count
        places = torch.where(moved, spare, self.slots)
        newcomers = torch.where(moved, incoming[: self.slots], self.neurons)
        # By fills: an assignment copies its number from the host, which a graph can't capture.
        left = places.long()
        self._slot_of.index_fill_(0, self._neuron_of[left].long(), self.slots)
        self._neuron_of.index_fill_(0, left, self.neurons)
        self._wanted_at.index_fill_(0, left, NEVER)
        self._source.fetch(self._rows, incoming, spare, count)
        self._slot_of[newcomers] = places
        self._neuron_of[places] = newcomers
        self._wanted_at[places] = self._updates

    def listed(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of wanted neurons that are here, as `ContextualWeights.run` takes them.

        Args:
            wanted: ``[I]`` bool.

        Raises:
            ArgumentError: not that.
        """
        self._require(wanted)
        return listed(self._held(wanted))

    def absent(self, wanted: Tensor) -> Tensor:
        """Which wanted neurons are not here: ``[I]`` bool."""
        self._require(wanted)
        return wanted & ~self.resident

    def _spare(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The slots in the order in which they may be overwritten ``[S]`` and how many may ``[1]``, int32."""
        held, last = self._held(wanted), self._wanted_at[:-1]
        self._updates += 1
        last.copy_(torch.where(held, self._updates, last))
        order = torch.where(held, torch.iinfo(torch.int32).max, last).sort(stable=True).indices
        return order.int(), (~held).sum(dtype=torch.int32)[None]

    def _held(self, wanted: Tensor) -> Tensor:
        """Which slots hold a wanted neuron."""
        none = wanted.new_zeros(1)
        return torch.cat([wanted, none])[self._neuron_of[:-1]]

    def _require(self, wanted: Tensor) -> None:
        if (
            wanted.shape != (self.neurons,)
            or wanted.dtype != torch.bool
            or wanted.device != self._slot_of.device
        ):
            raise ArgumentError(
                "wanted",
                f"expected bool [{self.neurons}] on {self._slot_of.device}, "
                f"got {wanted.dtype} {list(wanted.shape)} on {wanted.device}",
            )


def listed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where a 1-d mask is True, ascending, and how often: int32 of the mask's length, and ``[1]``.

    Behind that many the list may hold anything.
    """
    places, count = ops.contextual_select(mask.float()[None], "threshold", 0.5)
    return places, count
