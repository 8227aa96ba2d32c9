"""Whether the shapes of a call are among those that a captured program is right for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter

Place = tuple[int, int]
"""A dimension of an input: (index of the leaf, dimension)."""

_NAMESPACE = {"math": math, "min": min, "max": max, "torch": torch}


@dataclass(frozen=True)
class DimRange:
    """The sizes that one dimension may have; `high` is None if there is no limit."""

    place: Place
    low: int
    high: int | None

    def __str__(self) -> str:
        if self.high == self.low:
            return f"{self.low}"
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"


@dataclass
class ShapeGuards:
    """The conditions on input shapes under which a program is right.

    Attributes:
        ranges: ranges and fixed sizes.
        equal: pairs of dimensions that have one size.
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
        # The text is printed by torch from its own guards: nothing of the user's gets in.
        function: Callable[..., bool] = eval(f"lambda {', '.join(self.symbols)}: {code}", dict(_NAMESPACE))
        return function

    def violation(self, leaves: Sequence[Any], names: Sequence[str]) -> str | None:
        """Return why the shapes of `leaves` don't fit, or None if they do."""
        for allowed in self.ranges:
            leaf, dim = allowed.place
            size = leaves[leaf].shape[dim]
            if size < allowed.low or (allowed.high is not None and size > allowed.high):
                return f"{names[leaf]}.shape[{dim}] is {size}, not {allowed}"
        for (leaf, dim), (other, other_dim) in self.equal:
            if leaves[leaf].shape[dim] != leaves[other].shape[other_dim]:
                return f"{names[leaf]}.shape[{dim}] differs from {names[other]}.shape[{other_dim}]"
        sizes = [leaves[leaf].shape[dim] for leaf, dim in self.symbols.values()]
        return None if self._all(*sizes) else self._broken_relation(sizes, names)

    def _broken_relation(self, sizes: Sequence[int], names: Sequence[str]) -> str:
        broken = next(text for text in self.relations if not self._compile(text)(*sizes))

        def label(match: re.Match[str]) -> str:
            place = self.symbols.get(match[0])
            return match[0] if place is None else f"{names[place[0]]}.shape[{place[1]}]"

        condition = re.sub(r"[A-Za-z_]\w*", label, broken)
        return f"the condition {condition} doesn't hold"


def build_guards(
    fakes: Mapping[int, torch.Tensor],
    value_ranges: Mapping[sympy.Symbol, Any],
    conditions: Iterable[sympy.Basic],
) -> ShapeGuards:
    """Derive the guards of a program.

    Args:
        fakes: the fake tensor that each leaf was traced as; its sizes are ints or symbolic.
        value_ranges: the range of each symbol.
        conditions: boolean expressions over the symbols that tracing relied on.
    """
    ranges: list[DimRange] = []
    equal: list[tuple[Place, Place]] = []
    symbols: dict[sympy.Symbol, Place] = {}
    derived: list[tuple[sympy.Expr, Place]] = []
    for leaf, fake in fakes.items():
        for dim, size in enumerate(fake.shape):
            place = (leaf, dim)
            expr = sympy.Integer(size) if isinstance(size, int) else size.node.expr
            if expr in symbols:
                equal.append((place, symbols[expr]))
            elif isinstance(expr, sympy.Symbol):
                symbols[expr] = place
                ranges.append(DimRange(place, *_bounds(value_ranges.get(expr))))
            elif expr.is_number:
                ranges.append(DimRange(place, int(expr), int(expr)))
            else:
                derived.append((expr, place))
    return _with_relations(ranges, equal, symbols, derived, conditions)


def _with_relations(
    ranges: list[DimRange],
    equal: list[tuple[Place, Place]],
    symbols: dict[sympy.Symbol, Place],
    derived: Sequence[tuple[sympy.Expr, Place]],
    conditions: Iterable[sympy.Basic],
) -> ShapeGuards:
    known = dict(symbols)
    wanted = [condition for condition in conditions if condition.free_symbols <= symbols.keys()]
    for expr, (leaf, dim) in derived:
        stand_in = sympy.Symbol(f"d{leaf}_{dim}", integer=True, nonnegative=True)
        known[stand_in] = (leaf, dim)
        wanted.append(sympy.Eq(expr, stand_in, evaluate=False))
    printer = PythonPrinter()
    relations = [printer.doprint(condition) for condition in dict.fromkeys(wanted) if condition != sympy.true]
    used = set().union(*(condition.free_symbols for condition in wanted)) if wanted else set()
    named = {str(symbol): place for symbol, place in known.items() if symbol in used}
    return ShapeGuards(ranges, equal, named, relations)


def _bounds(value_range: Any) -> tuple[int, int | None]:
    if value_range is None:
        return 0, None
    unlimited = value_range.upper in (int_oo, sympy.oo)
    return int(value_range.lower), None if unlimited else int(value_range.upper)
