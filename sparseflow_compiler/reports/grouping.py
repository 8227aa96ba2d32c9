"""Grouping of layers that are alike into one line of a report."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sparseflow.reports.report import LayerReport, Range

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")
"""A component of a name that is a number: the index of a block, of an expert, or in an ``nn.Sequential``."""


@dataclass(frozen=True)
class Group:
    """Layers with the same shape, decision and place in their blocks.

    Attributes:
        name: one name for all of them, such as ``layers.{0–31}.q_proj``.
        layers: in the order of the model.
    """

    name: str
    layers: tuple[LayerReport, ...]

    @property
    def first(self) -> LayerReport:
        """The first layer, which represents the others."""
        return self.layers[0]

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges of M that are common to all layers, with what runs in each."""
        return self.first.ranges

    @property
    def title(self) -> str:
        """The name, with the number of layers if there are several."""
        return f"{self.name} ×{len(self.layers)}" if len(self.layers) > 1 else self.name

    @property
    def bytes_dense(self) -> int:
        """The bytes of all weights before compiling."""
        return sum(layer.bytes_dense for layer in self.layers)

    @property
    def bytes(self) -> int:
        """The bytes of all weights now."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def rel_err(self) -> float:
        """The largest error of a layer."""
        return max(layer.rel_err for layer in self.layers)

    @property
    def reason(self) -> str:
        """The layers' reason; the first layer's if they differ in figures."""
        return self.first.reason


def groups(layers: Iterable[LayerReport]) -> tuple[Group, ...]:
    """Group layers that differ only in the indices of their names and in figures.

    Args:
        layers: the layers of a report; groups are in the order of their first layers.
    """
    found: dict[object, list[LayerReport]] = {}
    for layer in layers:
        found.setdefault(_likeness(layer), []).append(layer)
    return tuple(Group(joined([layer.name for layer in alike]), tuple(alike)) for alike in found.values())


def _likeness(layer: LayerReport) -> object:
    ranges = tuple((entry.m_min, entry.m_max, entry.backend) for entry in layer.ranges)
    # Figures such as errors differ between layers; the rest of the reason must be equal.
    reason = _NUMBER.sub("#", layer.reason)
    return INDEX.sub("#", layer.name), layer.N, layer.K, layer.dtype, layer.decision, ranges, reason


def joined(names: Sequence[str]) -> str:
    """Join names that differ only in indices into one, such as ``layers.{0–31}.q_proj``."""
    indices = [[int(index) for index in INDEX.findall(name)] for name in names]
    sets = iter([sorted(set(column)) for column in zip(*indices, strict=True)])
    return INDEX.sub(lambda _: _spelled(next(sets)), names[0])


def _spelled(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    parts = []
    for _, run in runs:
        items = [number for _, number in run]
        parts.append(f"{items[0]}–{items[-1]}" if len(items) > 1 else f"{items[0]}")
    return "{" + ",".join(parts) + "}"


def speedup_at(ranges: Sequence[Range], m: int) -> float | None:
    """Return the least speed-up measured in the range of M; 1 for dense, None if not measured."""
    entry = next((r for r in ranges if r.m_min <= m and (r.m_max is None or m <= r.m_max)), None)
    if entry is None:
        return 1.0
    return 1.0 if entry.backend == "dense" else entry.speedup


class Ranged(Protocol):
    """A layer, or a product of several, with its size and what runs for which M."""

    @property
    def N(self) -> int: ...  # noqa: D102, N802
    @property
    def K(self) -> int: ...  # noqa: D102, N802
    @property
    def ranges(self) -> tuple[Range, ...]: ...  # noqa: D102


def expected(layers: Sequence[Ranged], m: int) -> float | None:
    """Return the speed-up of all layers together for M rows, from their measured speed-ups.

    A layer's weight in the mean is its size, N · K. The result is None if a sparse layer was not measured.
    """
    whole = [(layer.N * layer.K, speedup_at(layer.ranges, m)) for layer in layers]
    if not whole or any(speedup is None for _, speedup in whole):
        return None
    now = sum(size / speedup for size, speedup in whole if speedup)
    return sum(size for size, _ in whole) / now if now else None
