"""The slower tier: where all neurons of an MLP are, and how some of them get to the fast one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.contextual.tiered.fetch import contextual_fetch
from sparseflow.runtime.contextual.weights import ContextualWeights

PER_NEURON = ("gate", "up", "down_t", "gate_scale", "up_scale", "down_scale", "gate_bias", "up_bias")
"""The tensors of `ContextualWeights` that have a row for each neuron."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """The weights of an MLP without their values.

    Attributes:
        neurons: I.
        rows: of each tensor with a row a neuron, the elements of a row and their dtype.
        down_bias: ``[H]`` or None, which is small and always on the fast tier.
        activation: as in `ContextualWeights`.
    """

    neurons: int
    rows: Mapping[str, tuple[int, torch.dtype]]
    down_bias: Tensor | None
    activation: str

    @property
    def neuron_bytes(self) -> int:
        """Bytes of one neuron's rows."""
        return sum(width * dtype.itemsize for width, dtype in self.rows.values())


class Source(Protocol):
    """A slower tier.

    Attributes:
        outline: what it holds.
        in_place: all weights, where kernels of the fast tier's device can read them in place; else None.
    """

    @property
    def outline(self) -> Outline: ...  # noqa: D102

    @property
    def in_place(self) -> ContextualWeights | None: ...  # noqa: D102

    def require_reachable(self, device: torch.device) -> None:
        """Refuse a fast tier that this one can't fill.

        Raises:
            ArgumentError: the device can't read from here.
        """

    def fetch(self, into: Mapping[str, Tensor], neurons: Tensor, slots: Tensor, count: Tensor) -> None:
        """Copy the rows ``neurons[i]`` to the rows ``slots[i]`` of ``into``, for i below ``count``.

        Args:
            into: of each tensor in the outline ``[S, width]`` on the fast tier.
            neurons: ``[I]`` int32, ascending.
            slots: ``[S]`` int32.
            count: ``[1]`` int32.

        Raises:
            TierError: they can't be read; some of the slots may be overwritten.
        """


class HostWeights:
    """Weights in host memory, for a cache on a GPU, which reads them over the bus; or on the CPU.

    Args:
        weights: on the CPU; in pinned memory (see `pin`) for a cache on a GPU.

    Raises:
        ArgumentError: they aren't on the CPU.
    """

    def __init__(self, weights: ContextualWeights) -> None:
        if weights.up.device.type != "cpu":
            raise ArgumentError(
                "weights",
                f"expected weights on the CPU, got {weights.up.device}",
                "use ContextualWeights itself",
            )
        tensors = {name: getattr(weights, name) for name in PER_NEURON}
        self._rows = {
            name: tensor if tensor.dim() == 2 else tensor[:, None]
            for name, tensor in tensors.items()
            if tensor is not None
        }
        widths = {name: (tensor.shape[1], tensor.dtype) for name, tensor in self._rows.items()}
        self.outline = Outline(weights.intermediate, widths, weights.down_bias, weights.activation)
        self.in_place: ContextualWeights | None = weights

    @classmethod
    def pin(cls, weights: ContextualWeights) -> HostWeights:
        """Copied to pinned memory, which a GPU reads without the CPU's help."""
        fields = {field.name: getattr(weights, field.name) for field in dataclasses.fields(weights)}
        pinned: dict[str, Any] = {
            name: t.cpu().pin_memory() for name, t in fields.items() if isinstance(t, Tensor)
        }
        return cls(dataclasses.replace(weights, **pinned))

    def require_reachable(self, device: torch.device) -> None:
        """Of GPUs only where the weights are pinned.

        Raises:
            ArgumentError: they aren't.
        """
        if device.type == "cuda" and not all(tensor.is_pinned() for tensor in self._rows.values()):
            raise ArgumentError(
                "weights",
                f"expected pinned memory for a cache on {device}",
                "HostWeights.pin(weights) copies them there",
            )

    def fetch(self, into: Mapping[str, Tensor], neurons: Tensor, slots: Tensor, count: Tensor) -> None:
        """As `Source.fetch`, on the current stream, with no wait."""
        for name, rows in self._rows.items():
            contextual_fetch(into[name], rows, neurons, slots, count)
