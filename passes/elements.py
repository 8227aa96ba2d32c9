"""Symbolic elements of index tensors, and of masks made from them, as functions of the index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import constant_int, defined_by, is_none
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.sizes import TO_THE_END, KnownSizes, Size, Sizes, Unknown, dimension

Terms = frozenset[tuple[ir.Value, int]]
"""Integer tensors of one element that aren't known, each with how often it is added."""

NO_TERMS: Terms = frozenset()


@dataclass(frozen=True)
class Progression:
    """An integer tensor, or a boolean one of a single value: `offset + Σ steps[d] · index[d] + Σ terms`.

    A step is 0 wherever the size is 1.
    """

    sizes: Sizes
    steps: tuple[int, ...]
    offset: int
    terms: Terms = NO_TERMS

    @property
    def constant(self) -> int | None:
        """The value of every element, or None if they differ or depend on a tensor."""
        return None if any(self.steps) or self.terms else self.offset


class Limit(NamedTuple):
    """The condition `offset + Σ steps[d] · index[d] + Σ terms ≤ 0`."""

    steps: tuple[int, ...]
    offset: int
    terms: Terms = NO_TERMS


class Read(NamedTuple):
    """The condition that an element of a boolean tensor is true: at the index along these dimensions.

    A dimension is None where the place is 0.
    """

    tensor: ir.Value
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Condition:
    """A boolean tensor that is true where all limits and reads hold."""

    sizes: Sizes
    limits: frozenset[Limit]
    reads: frozenset[Read] = frozenset()


Found = Progression | Condition | None


class Elements:
    """The elements of a module's tensors, None if unknown; rewriting the module invalidates them."""

    def __init__(self, sizes: KnownSizes) -> None:
        self.sizes = sizes
        self._found: dict[ir.Value, Found] = {}

    def of(self, value: ir.Value) -> Found:
        """Return what is known about a tensor's elements."""
        if value not in self._found:
            op = None if isinstance(value.owner, ir.Block) else value.owner.operation
            rule = None if op is None else _RULES.get(_name(op))
            found = None if op is None or rule is None else rule(self, op)
            self._found[value] = _term(value) if found is None else found
        return self._found[value]

    def progression(self, value: ir.Value) -> Progression | None:
        """Return the progression of an integer tensor, if known."""
        found = self.of(value)
        return found if isinstance(found, Progression) else None

    def condition(self, value: ir.Value) -> Condition | None:
        """Return the condition of a boolean tensor: an empty one if always true, None if always false."""
        found = self.of(value)
        if isinstance(found, Progression) and found.constant == 1 and _dtype(value) == "i1":
            return Condition(found.sizes, frozenset())
        return found if isinstance(found, Condition) else None


_Move = Callable[[tuple[int, ...]], tuple[int, ...]]
_Rule = Callable[[Elements, ir.Operation], Found]


def _name(op: ir.Operation) -> str:
    name = text_of(op, "name") if op.name == "torch.operator" else op.name
    return str(name).removeprefix("torch.aten.")


def _dtype(value: ir.Value) -> str | None:
    type_ = tensor_type(value)
    return None if type_ is None else type_.dtype


def _term(value: ir.Value) -> Found:
    """Return an integer tensor of one element, about which nothing is known, as a term."""
    type_ = tensor_type(value)
    if type_ is None or type_.dtype != "si64" or type_.shape not in ((), (1,)):
        return None
    return Progression(type_.shape, (0,) * len(type_.shape), 0, frozenset({(value, 1)}))


def _terms(a: Progression, times: int, b: Progression, more: int) -> Terms:
    found: dict[ir.Value, int] = {}
    for terms, factor in ((a.terms, times), (b.terms, more)):
        for value, count in terms:
            found[value] = found.get(value, 0) + factor * count
    return frozenset((value, count) for value, count in found.items() if count)


def _sum(a: Progression, times: int, b: Progression, more: int) -> Progression | None:
    """Return `times · a + more · b`, or None if it is unknown which of them broadcasts."""
    rank = max(len(a.steps), len(b.steps))
    dims = [_meet(*pair) for pair in zip(_dims(a, rank, times), _dims(b, rank, more), strict=True)]
    known = [dim for dim in dims if dim is not None]
    if len(known) < rank:
        return None
    return Progression(
        tuple(size for size, _ in known),
        tuple(step for _, step in known),
        times * a.offset + more * b.offset,
        _terms(a, times, b, more),
    )


def _dims(a: Progression, rank: int, times: int) -> list[tuple[Size, int]]:
    steps = (0,) * (rank - len(a.steps)) + a.steps
    return [(size, times * step) for size, step in zip(_raised(a.sizes, rank), steps, strict=True)]


def _meet(a: tuple[Size, int], b: tuple[Size, int]) -> tuple[Size, int] | None:
    """Return size and step of a sum along one dimension, where either size may be a broadcast 1."""
    (size, step), (other, more) = a, b
    if size == other or other == 1:
        return size, step + more
    if size == 1:
        return other, more
    return (Unknown(), 0) if step == more == 0 else None


def _counted(elements: Elements, op: ir.Operation) -> Found:
    """Handle an arange from 0 by 1."""
    before, after = {"arange": (0, 0), "arange.start": (1, 0), "arange.start_step": (1, 1)}[_name(op)]
    end = op.operands[before]
    rest = [constant_int(op.operands[at]) for at in (*range(before), *range(before + 1, before + 1 + after))]
    if rest != [0, 1][: before + after] or (str(end.type), _dtype(op.results[0])) != ("!torch.int", "si64"):
        return None
    size = elements.sizes.element(end)
    return Progression((size,), (0 if size == 1 else 1,), 0)


def _shifted(sign: int) -> _Rule:
    def rule(elements: Elements, op: ir.Operation) -> Found:
        x, by, alpha = elements.progression(op.operands[0]), *map(constant_int, list(op.operands)[1:3])
        if x is None or by is None or alpha is None:
            return None
        return Progression(x.sizes, x.steps, x.offset + sign * by * alpha, x.terms)

    return rule


def _added(elements: Elements, op: ir.Operation) -> Found:
    a, b = map(elements.progression, list(op.operands)[:2])
    alpha = constant_int(op.operands[2])
    if a is None or b is None or alpha is None or _dtype(op.results[0]) != "si64":
        return None
    return _sum(a, 1, b, alpha)


def _moved(x: Progression | Condition, sizes: Sizes, move: _Move) -> Found:
    """Return the same elements with their dimensions rearranged."""
    if isinstance(x, Progression):
        return Progression(sizes, move(x.steps), x.offset, x.terms)
    limits = frozenset(limit._replace(steps=move(limit.steps)) for limit in x.limits)
    return Condition(sizes, limits, frozenset(_moved_read(read, len(x.sizes), move) for read in x.reads))


def _moved_read(read: Read, rank: int, move: _Move) -> Read:
    # Dimensions move as the steps of an index along them do.
    moved = [None if dim is None else move(_unit(dim, rank)) for dim in read.dims]
    return read._replace(dims=tuple(step.index(1) if step and any(step) else None for step in moved))


def _unit(dim: int, rank: int) -> tuple[int, ...]:
    return tuple(int(at == dim) for at in range(rank))


def _varies(x: Progression | Condition, at: int) -> bool:
    """Return whether the elements vary along a dimension."""
    if isinstance(x, Progression):
        return bool(x.steps[at])
    return any(limit.steps[at] for limit in x.limits) or any(at in read.dims for read in x.reads)


def _unsqueezed(elements: Elements, op: ir.Operation) -> Found:
    x = elements.of(op.operands[0])
    at = None if x is None else dimension(op.operands[1], len(x.sizes) + 1)
    if x is None or at is None:
        return None
    return _moved(x, (*x.sizes[:at], 1, *x.sizes[at:]), lambda steps: (*steps[:at], 0, *steps[at:]))


def _sliced(elements: Elements, op: ir.Operation) -> Found:
    """Handle a slice of everything, or of the first element."""
    x, (dim, start, end, step) = elements.of(op.operands[0]), list(op.operands)[1:]
    at = None if x is None else dimension(dim, len(x.sizes))
    if x is None or at is None or (constant_int(start), constant_int(step)) != (0, 1):
        return None
    if constant_int(end) == TO_THE_END:
        return x
    if constant_int(end) != 1:
        return None
    return _moved(x, (*x.sizes[:at], 1, *x.sizes[at + 1 :]), lambda steps: (*steps[:at], 0, *steps[at + 1 :]))


def _expanded(elements: Elements, op: ir.Operation) -> Found:
    x, given = elements.of(op.operands[0]), defined_by(op.operands[1], "torch.prim.ListConstruct")
    new = 0 if x is None or given is None else len(given.operands) - len(x.sizes)
    if x is None or given is None or new < 0:
        return None
    sizes: list[Size] = []
    for at, wanted in enumerate(given.operands, start=-new):
        old = x.sizes[at] if at >= 0 else 1
        size = old if constant_int(wanted) == -1 else elements.sizes.element(wanted)
        if size != old and at >= 0 and _varies(x, at):
            return None  # may not be the broadcast 1 that it has to be
        sizes.append(size)
    return _moved(x, tuple(sizes), lambda steps: (0,) * new + steps)


def _picked(elements: Elements, op: ir.Operation) -> Found:
    """Handle indexing by one index tensor for each dimension."""
    x, listed = elements.progression(op.operands[0]), defined_by(op.operands[1], "torch.prim.ListConstruct")
    places = [] if listed is None else [elements.progression(place) for place in listed.operands]
    if x is None:
        return _read(op.operands[0], places)
    if len(places) != len(x.steps):
        return None
    found: Progression | None = Progression((), (), x.offset, x.terms)
    for place, step in zip(places, x.steps, strict=True):
        if found is None or place is None:
            return None
        if step and (place.terms or min(place.offset, *place.steps, 0) < 0):
            return None  # a negative index counts from the end
        found = _sum(found, 1, place, step)
    return found


def _read(tensor: ir.Value, places: list[Progression | None]) -> Found:
    """Handle an unknown boolean tensor, each of whose places is 0 or the index along one dimension."""
    type_ = tensor_type(tensor)
    if type_ is None or type_.dtype != "i1" or not places or type_.rank != len(places):
        return None
    whole: Progression | None = Progression((), (), 0)
    dims: list[int | None] = []  # from the last one
    for place in places:
        if whole is None or place is None or place.offset or place.terms:
            return None
        along = [at - len(place.steps) for at, step in enumerate(place.steps) if step]
        if len(along) > 1 or any(place.steps[at] != 1 for at in along):
            return None
        dims.append(along[0] if along else None)
        whole = _sum(whole, 1, place, 1)
    if whole is None:
        return None
    rank = len(whole.sizes)
    read = Read(tensor, tuple(None if dim is None else dim + rank for dim in dims))
    return Condition(whole.sizes, frozenset(), frozenset({read}))


def _difference(elements: Elements, op: ir.Operation) -> Found:
    """Handle a difference along the last dimension, with prepend, that is constant."""
    x, first = elements.progression(op.operands[0]), elements.progression(op.operands[3])
    order, dim = constant_int(op.operands[1]), constant_int(op.operands[2])
    if x is None or first is None or not x.steps or order != 1 or not is_none(op.operands[4]):
        return None
    if x.terms != first.terms:
        return None
    alike = (x.steps[:-1], x.sizes[:-1], 1) == (first.steps[:-1], first.sizes[:-1], first.sizes[-1])
    if not alike or dim not in (-1, len(x.steps) - 1) or x.offset - first.offset != x.steps[-1]:
        return None
    return Progression(x.sizes, (0,) * len(x.steps), x.steps[-1])


def _summed(elements: Elements, op: ir.Operation) -> Found:
    """Handle a cumulative sum of zeros."""
    x = elements.progression(op.operands[0])
    return x if x is not None and x.constant == 0 else None


def _compared_operands(elements: Elements, op: ir.Operation) -> tuple[Progression | None, Progression | None]:
    """Return both operands of a comparison, of two tensors or a tensor and a number."""
    number = constant_int(op.operands[1])
    b = elements.progression(op.operands[1]) if number is None else Progression((), (), number)
    return elements.progression(op.operands[0]), b


def _compared(sign: int, shift: int) -> _Rule:
    """Return the rule of the comparison `sign · (a − b) + shift ≤ 0`."""

    def rule(elements: Elements, op: ir.Operation) -> Found:
        a, b = _compared_operands(elements, op)
        found = None if a is None or b is None else _sum(a, sign, b, -sign)
        if found is None:
            return None
        offset = found.offset + shift
        # Indices are never negative; of terms nothing is known.
        always = not found.terms and offset <= 0 and max(found.steps, default=0) <= 0
        if found.constant is None and not always:
            return Condition(found.sizes, frozenset({Limit(found.steps, offset, found.terms)}))
        return Progression(found.sizes, (0,) * len(found.steps), int(always))

    return rule


def _equal(wanted: bool) -> _Rule:
    """Return the rule of (in)equality; of constants only, as a condition has no equations."""

    def rule(elements: Elements, op: ir.Operation) -> Found:
        a, b = _compared_operands(elements, op)
        found = None if a is None or b is None else _sum(a, 1, b, -1)
        if found is None or found.constant is None:
            return None
        return Progression(found.sizes, found.steps, int((found.constant == 0) == wanted))

    return rule


def _both(elements: Elements, op: ir.Operation) -> Found:
    a, b = map(elements.condition, op.operands)
    if a is None or b is None:
        return None
    rank = max(len(a.sizes), len(b.sizes))
    a, b = _raised_condition(a, rank), _raised_condition(b, rank)
    both = Condition((), a.limits | b.limits, a.reads | b.reads)
    varies = [int(_varies(both, at)) for at in range(rank)]
    met = [
        _meet((one, step), (other, step)) for one, other, step in zip(a.sizes, b.sizes, varies, strict=True)
    ]
    sizes = tuple(dim[0] for dim in met if dim is not None)
    return Condition(sizes, both.limits, both.reads) if len(sizes) == rank else None


def _raised_condition(x: Condition, rank: int) -> Condition:
    """Return a condition with more dimensions, of size 1, in front."""
    new = rank - len(x.sizes)
    limits = frozenset(limit._replace(steps=(0,) * new + limit.steps) for limit in x.limits)
    reads = frozenset(
        read._replace(dims=tuple(None if dim is None else dim + new for dim in read.dims)) for read in x.reads
    )
    return Condition(_raised(x.sizes, rank), limits, reads)


def _raised(sizes: Sizes, rank: int) -> Sizes:
    return (1,) * (rank - len(sizes)) + sizes


def _kept(elements: Elements, op: ir.Operation) -> Found:
    """Handle a copy of the same dtype, perhaps to another device."""
    same = _dtype(op.operands[0]) == _dtype(op.results[0]) is not None
    return elements.of(op.operands[0]) if same else None


def _ones(elements: Elements, op: ir.Operation) -> Found:
    at = 1 if _name(op) == "new_ones" else 0
    given = defined_by(op.operands[at], "torch.prim.ListConstruct")
    if given is None or _dtype(op.results[0]) not in ("i1", "si64"):
        return None
    sizes = tuple(elements.sizes.element(size) for size in given.operands)
    return Progression(sizes, (0,) * len(sizes), 1)


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("arange", "arange.start", "arange.start_step"), _counted),
    **dict.fromkeys(("ones", "new_ones"), _ones),
    **dict.fromkeys(("__and__.Tensor", "bitwise_and.Tensor", "logical_and"), _both),
    **dict.fromkeys(("clone", "contiguous", "detach", "to.device", "to.dtype", "to.dtype_layout"), _kept),
    "add.Scalar": _shifted(1),
    "add.Tensor": _added,
    "sub.Scalar": _shifted(-1),
    "unsqueeze": _unsqueezed,
    "slice.Tensor": _sliced,
    "expand": _expanded,
    "index.Tensor": _picked,
    "diff": _difference,
    "cumsum": _summed,
    **dict.fromkeys(("le.Tensor", "le.Scalar"), _compared(1, 0)),
    **dict.fromkeys(("lt.Tensor", "lt.Scalar"), _compared(1, 1)),
    **dict.fromkeys(("ge.Tensor", "ge.Scalar"), _compared(-1, 0)),
    **dict.fromkeys(("gt.Tensor", "gt.Scalar"), _compared(-1, 1)),
    **dict.fromkeys(("eq.Tensor", "eq.Scalar"), _equal(True)),
    **dict.fromkeys(("ne.Tensor", "ne.Scalar"), _equal(False)),
}
"""By the operation's name without `torch.aten.`."""
