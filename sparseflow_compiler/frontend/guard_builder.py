"""Guards on shapes for a program that torch.export traced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import sympy  # type: ignore[import-untyped]
import torch
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.value_ranges import ValueRanges

from sparseflow.runtime.calling.guards import DimRange, Place, ShapeGuards

_Number = int | torch.SymInt | torch.SymFloat | torch.SymBool


def build_guards(
    fakes: Sequence[object],
    value_ranges: Mapping[sympy.Symbol, ValueRanges[sympy.Expr]],
    conditions: Iterable[sympy.Basic],
) -> ShapeGuards:
    """Derive the guards of a program.

    Args:
        fakes: the traced value of each leaf: a fake tensor with int or symbolic sizes, or such a number.
        value_ranges: the range of each symbol.
        conditions: boolean expressions over the symbols that tracing relied on.
    """
    ranges: list[DimRange] = []
    equal: list[tuple[Place, Place]] = []
    symbols: dict[sympy.Symbol, Place] = {}
    derived: list[tuple[sympy.Expr, Place]] = []
    for place, size in _traced_sizes(fakes):
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


def _traced_sizes(fakes: Sequence[object]) -> Iterator[tuple[Place, _Number]]:
    for leaf, fake in enumerate(fakes):
        if isinstance(fake, torch.Tensor):
            yield from (((leaf, dim), size) for dim, size in enumerate(fake.shape))
        else:
            assert isinstance(fake, _Number), "what is no tensor is a number"
            yield (leaf, None), fake


def _with_relations(
    ranges: list[DimRange],
    equal: list[tuple[Place, Place]],
    symbols: dict[sympy.Symbol, Place],
    derived: Sequence[tuple[sympy.Expr, Place]],
    conditions: Iterable[sympy.Basic],
) -> ShapeGuards:
    known = dict(symbols)
    wanted = [condition for condition in conditions if condition.free_symbols <= symbols.keys()]
    for expr, place in derived:
        stand_in = sympy.Symbol(f"d{len(known)}", integer=True, nonnegative=True)
        known[stand_in] = place
        wanted.append(sympy.Eq(expr, stand_in, evaluate=False))
    printer = PythonPrinter()
    relations = [printer.doprint(condition) for condition in dict.fromkeys(wanted) if condition != sympy.true]
    used = set().union(*(condition.free_symbols for condition in wanted)) if wanted else set()
    named = {str(symbol): place for symbol, place in known.items() if symbol in used}
    return ShapeGuards(ranges, equal, named, relations)


def _bounds(value_range: ValueRanges[sympy.Expr] | None) -> tuple[int, int | None]:
    if value_range is None:
        return 0, None
    unlimited = value_range.upper in (int_oo, sympy.oo)
    return int(value_range.lower), None if unlimited else int(value_range.upper)
