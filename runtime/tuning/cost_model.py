"""What a layer would cost on a GPU, before anything was measured there: which candidates to try first.

A product's roofline is corrected by what the recorded points nearest to it reached of theirs: near in N, K
and M, and in the part of the GPU that the last wave of blocks leaves idle. A prediction decides nothing by
itself: the tuner measures what it ranks first.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.runtime.tuning.roofline import Constants, Near, Product, fitted, idle

Key = tuple[str, int]
"""A kernel and its algorithm. Split-k 0 and −1 of cuSPARSELt differ by noise alone in the tables."""

BLOCKS = ((64, 128), (128, 128), (256, 128), (128, 256))
"""Rows and columns of y that the blocks of frequent kernels make."""

FAR = 2.0
"""Powers of two between the M's of a point and of what it says nothing about."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A candidate for a product.

    Attributes:
        key: kernel and algorithm.
        us: its predicted time.
        gain: the log of its speed-up over dense.
        spread: the standard deviation of that among the points near by.
        kept: the share of those points that kept it.
    """

    key: Key
    us: float
    gain: float
    spread: float
    kept: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a product is expected to take.

    Attributes:
        dense_us: densely.
        ways: by the candidates, fastest first; none where nothing near by is recorded.
        sparse: whether the first of them is faster than dense, with a margin.
    """

    dense_us: float
    ways: tuple[Way, ...]
    sparse: bool

    def decided(self, rules: Near) -> Prediction:
        """The same, decided by these rules."""
        sure = self.ways and self.ways[0].kept >= rules.share
        sparse = bool(sure) and self.ways[0].gain - rules.deviations * self.ways[0].spread > rules.margin
        return dataclasses.replace(self, sparse=sparse)


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A point: where it is, and the logs of what dense and its candidates took over their rooflines."""

    place: tuple[float, ...]
    m: float
    foreign: bool
    dense: float
    ways: Mapping[Key, float]
    absent: Mapping[str, float]
    """What a candidate takes that isn't kept, by kernel; empty where not all were tried."""

    def over_roof(self, key: Key) -> float | None:
        """The log of what a candidate took over its roofline; None where that isn't known."""
        return self.ways.get(key, self.absent.get(key[0]))


class CostModel:
    """Predicts by the points that are recorded for GPUs of one architecture.

    Args:
        hardware: of the GPU to predict for.
        own: points of that GPU.
        borrowed: points of other GPUs of its architecture and library, each with the figures of its GPU.
        constants: the shipped ones by default.
    """

    def __init__(
        self,
        hardware: Hardware,
        own: Iterable[TunedPoint] = (),
        borrowed: Iterable[tuple[TunedPoint, Hardware]] = (),
        constants: Constants | None = None,
    ) -> None:
        self._hardware = hardware
        self._constants = constants or fitted()
        self._recorded: defaultdict[str, list[_Recorded]] = defaultdict(list)
        self.add(own)
        for point, elsewhere in borrowed:
            self._recorded[point.dtype].append(self._read(point, elsewhere, foreign=True))

    def add(self, own: Iterable[TunedPoint]) -> None:
        """Take points of the GPU itself in."""
        for point in own:
            self._recorded[point.dtype].append(self._read(point, self._hardware, foreign=False))

    def predict(self, product: Product) -> Prediction:
        """What a product is expected to take, by all that is recorded near by."""
        near = self._near(product)
        total = sum(weight for weight, _ in near)
        over = sum(weight * point.dense for weight, point in near) / total if near else 0.0
        dense = self._roof("dense", product, self._hardware)
        ways = [
            self._way(key, product, near, total)
            for key in sorted({key for _, point in near for key in point.ways})
        ]
        ways.sort(key=lambda way: (way.us, way.key))
        return Prediction(math.exp(dense + over), tuple(ways), False).decided(self._constants.near)

    def kernels(self, product: Product) -> list[tuple[str, float]]:
        """The sparse kernels and their times by rooflines alone: all that is known of a new architecture."""
        roofs = {kernel: self._roof(kernel, product, self._hardware) for kernel in self._sparse(product)}
        return sorted(((kernel, math.exp(us)) for kernel, us in roofs.items()), key=lambda entry: entry[1])

    def _sparse(self, product: Product) -> list[str]:
        sides = self._constants.sides
        return [kernel for kernel in sides if kernel != "dense" and product.dtype in sides[kernel]]

    def _way(self, key: Key, product: Product, near: Sequence[tuple[float, _Recorded]], total: float) -> Way:
        roof = self._roof(key[0], product, self._hardware)
        base = self._roof("dense", product, self._hardware) - roof
        known = [(w, found, p) for w, p in near if (found := p.over_roof(key)) is not None]
        weight = sum(w for w, _, _ in known)
        mean = sum(w * found for w, found, _ in known) / weight
        gains = [(w, base + p.dense - found) for w, found, p in known]
        gain = sum(w * g for w, g in gains) / weight
        spread = math.sqrt(sum(w * (g - gain) ** 2 for w, g in gains) / weight)
        kept = sum(w for w, _, p in known if key in p.ways) / total
        return Way(key, math.exp(roof + mean), gain, spread, kept)

    def _near(self, product: Product) -> list[tuple[float, _Recorded]]:
        """The nearest points with their weights."""
        rules, here = self._constants.near, self._place(product, self._hardware)
        m, points = math.log2(product.m), self._recorded[product.dtype]
        distances = [
            (rules.floor + rules.foreign * point.foreign + _squared(here, point.place), place)
            for place, point in enumerate(points)
            if abs(point.m - m) <= FAR
        ]
        return [(1 / far, points[place]) for far, place in heapq.nsmallest(rules.count, distances)]

    def _place(self, product: Product, hardware: Hardware) -> tuple[float, ...]:
        rules = self._constants.near
        empty = (idle(product.waves(rows, columns, hardware.sms)) for rows, columns in BLOCKS)
        return (
            rules.n * math.log2(product.n),
            rules.k * math.log2(product.k),
            rules.m * math.log2(product.m),
            *(rules.idle * math.log2(share) for share in empty),
        )

    def _roof(self, kernel: str, product: Product, hardware: Hardware) -> float:
        """The log of a kernel's roofline; one that wasn't fitted is taken to be like the library's."""
        sides = self._constants.sides
        side = sides.get(kernel, {}).get(product.dtype, sides["cusparselt"][product.dtype])
        return math.log(side.us(product, hardware, dense=kernel == "dense"))

    def _read(self, point: TunedPoint, hardware: Hardware, *, foreign: bool) -> _Recorded:
        product = Product(point.dtype, point.n, point.k, point.m)
        times = by_key(point)
        roofs = {kernel: self._roof(kernel, product, hardware) for kernel, _ in times}
        beyond = math.log(absent_us(point)) if times and point.effort == "full" else None
        return _Recorded(
            self._place(product, hardware),
            math.log2(point.m),
            foreign,
            math.log(point.dense_us) - self._roof("dense", product, hardware),
            {key: math.log(us) - roofs[key[0]] for key, us in times.items()},
            {}
            if beyond is None
            else {kernel: beyond - self._roof(kernel, product, hardware) for kernel in self._sparse(product)},
        )


def by_key(point: TunedPoint) -> dict[Key, float]:
    """The times of a point's candidates, of each the best over its split-k's."""
    times: dict[Key, float] = {}
    for candidate in point.candidates:
        key = candidate.backend, candidate.algorithm
        times[key] = min(candidate.us, times.get(key, math.inf))
    return times


def absent_us(point: TunedPoint) -> float:
    """What a candidate is counted as that a fully tuned point doesn't keep.

    It is slower than the slowest that is kept; nobody knows by how much. It is counted as that much slower
    than that as that is slower than the best, and by 5 % at least.
    """
    best, slowest = point.candidates[0].us, point.candidates[-1].us
    return slowest * max(1.05, slowest / best)


def _squared(here: Sequence[float], there: Sequence[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(here, there, strict=True))
