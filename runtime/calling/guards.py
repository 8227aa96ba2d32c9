"""Guards that check whether a captured program is valid for the shapes of a call."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Place = tuple[int, int | None]
"""A dimension of an input, (index of the leaf, dimension), or a counter, (index of the leaf, None)."""

_NAMESPACE = {"math": math, "min": min, "max": max, "torch": torch}


@dataclass(frozen=True)
class DimRange:
    """The range of one dimension's size; `high` is None if unbounded."""

    place: Place
    low: int
    high: int | None

    def __str__(self) -> str:
        if self.high == self.low:
            return f"{self.low}"
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"


@dataclass
class ShapeGuards:
    """The conditions on input shapes under which a program is valid.

    Attributes:
        ranges: ranges and fixed sizes.
        equal: pairs of dimensions of equal size.
        symbols: the dimension that each symbol of `relations` stands for.
        relations: further conditions, as Python over those symbols, such as `s0 % 2 == 0`.
    """

    ranges: list[DimRange] = field(default_factory=list)
    equal: list[tuple[Place, Place]] = field(default_factory=list)
    symbols: dict[str, Place] = field(default_factory=dict)
    relations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._all = self._compile(" and ".join(f"({text})" for text in self.relations) or "True")

    def _compile(self, code: str) -> Callable[..., bool]:
        # torch prints this text from its own guards; no user input gets into it.
        function: Callable[..., bool] = eval(f"lambda {', '.join(self.symbols)}: {code}", dict(_NAMESPACE))
        return function

    def violation(self, leaves: Sequence[object], names: Sequence[str]) -> str | None:
        """Return why the shapes of `leaves` don't fit, or None if they do."""
        for allowed in self.ranges:
            size = _size(leaves, allowed.place)
            if size < allowed.low or (allowed.high is not None and size > allowed.high):
                return f"{_label(names, allowed.place)} is {size}, not {allowed}"
        for place, other in self.equal:
            if _size(leaves, place) != _size(leaves, other):
                return f"{_label(names, place)} differs from {_label(names, other)}"
        sizes = [_size(leaves, place) for place in self.symbols.values()]
        return None if self._all(*sizes) else self._broken_relation(sizes, names)

    def _broken_relation(self, sizes: Sequence[int], names: Sequence[str]) -> str:
        broken = next(text for text in self.relations if not self._compile(text)(*sizes))

        def label(match: re.Match[str]) -> str:
            place = self.symbols.get(match[0])
            return match[0] if place is None else _label(names, place)

        condition = re.sub(r"[A-Za-z_]\w*", label, broken)
        return f"the condition {condition} doesn't hold"


def _size(leaves: Sequence[Any], place: Place) -> int:
    leaf, dim = place
    size: int = leaves[leaf] if dim is None else leaves[leaf].shape[dim]
    return size


def _label(names: Sequence[str], place: Place) -> str:
    leaf, dim = place
    return names[leaf] if dim is None else f"{names[leaf]}.shape[{dim}]"
