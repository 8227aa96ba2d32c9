"""Detect tensors that share memory with each other or overlap themselves."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

_Term = tuple[int, int, int]
"""A coefficient, and the lowest and the highest whole number that it may be multiplied by."""

_MOST_STEPS = 10_000
"""Steps after which two tensors of odd strides are taken to overlap."""


class Span(NamedTuple):
    """The address range of a tensor, end exclusive; `place` identifies the tensor."""

    start: int
    end: int
    place: int

    @classmethod
    def of(cls, tensor: Tensor, place: int) -> Span:
        """Return the span of a tensor, empty if it has no memory."""
        start = tensor.data_ptr()
        if tensor.is_contiguous():
            return cls(start, start + tensor.nbytes, place)
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return cls(start, start + (reach + 1) * tensor.element_size() if tensor.numel() else start, place)


class Spans:
    """A collection of spans with fast lookup of intersecting ones.

    Args:
        spans: in any order; empty ones intersect nothing.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        self._sorted = sorted(span for span in spans if span.end > span.start)
        self._starts = [span.start for span in self._sorted]
        self._reached = list(itertools.accumulate((span.end for span in self._sorted), max))

    def meeting(self, span: Span) -> Iterator[Span]:
        """Yield the spans that intersect a given one that is not in the collection."""
        last = bisect.bisect_left(self._starts, span.end) - 1
        while last >= 0 and self._reached[last] > span.start:
            if self._sorted[last].end > span.start:
                yield self._sorted[last]
            last -= 1

    def pairs(self) -> Iterator[tuple[Span, Span]]:
        """Yield the pairs that intersect."""
        if all(a.end <= b.start for a, b in itertools.pairwise(self._sorted)):
            return
        for place, span in enumerate(self._sorted):
            for other in itertools.islice(self._sorted, place + 1, None):
                if other.start >= span.end:
                    break
                yield span, other


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have a byte in common; interleaved rows of one buffer don't."""
    terms = [(stride * one.element_size(), 0, size - 1) for size, stride in _steps(one)]
    terms += [(stride * other.element_size(), 1 - size, 0) for size, stride in _steps(other)]
    terms.append((1, 1 - other.element_size(), one.element_size() - 1))
    return _reaches(other.data_ptr() - one.data_ptr(), _merged(terms))


def overlaps_itself(tensor: Tensor) -> bool:
    """Return whether elements of a tensor may share memory, as in an expanded tensor."""
    reach = 0
    for size, stride in sorted(_steps(tensor), key=lambda step: step[1]):
        if stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Return size and stride of the dimensions with more than one element."""
    return [(n, stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def _merged(terms: Iterable[_Term]) -> list[_Term]:
    """Merge terms of equal coefficient, the largest coefficient first."""
    ranges: dict[int, tuple[int, int]] = {}
    for factor, low, high in terms:
        old = ranges.get(factor, (0, 0))
        ranges[factor] = (old[0] + low, old[1] + high)
    return sorted(((factor, low, high) for factor, (low, high) in ranges.items() if factor), reverse=True)


def _reaches(total: int, terms: list[_Term]) -> bool:
    """Return whether the sum of the terms can be `total`; the last coefficient is 1."""
    rest = [(0, 0)]
    for factor, low, high in reversed(terms):
        rest.append((rest[-1][0] + factor * low, rest[-1][1] + factor * high))
    rest.reverse()
    pending, steps = [(total, 0)], 0
    while pending:
        left, place = pending.pop()
        steps += 1
        if place == len(terms):
            return True
        factor, low, high = terms[place]
        lowest, highest = rest[place + 1]
        first, last = max(low, -((highest - left) // factor)), min(high, (left - lowest) // factor)
        if steps + last - first > _MOST_STEPS:
            return True
        pending += [(left - factor * n, place + 1) for n in range(first, last + 1)]
    return False
