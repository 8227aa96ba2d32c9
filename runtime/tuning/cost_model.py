"""A cost model of layers on a GPU, which ranks the candidates that quick tuning tries first.

The time of a product is that of its roofline, corrected by the ratios to their rooflines of the recorded
points nearest to it: near in N, K and M, and in the share of the GPU that the last wave of blocks leaves
idle. A prediction alone decides nothing: the tuner measures the candidates that are ranked first.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sparseflow.runtime.kernels import find
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.runtime.tuning.roofline import Constants, Near, Product, fitted, idle

Key = tuple[str, int]
"""A kernel and its algorithm. Split-k 0 and −1 of cuSPARSELt differ only by noise in the tables."""

BLOCKS = ((64, 128), (128, 128), (256, 128), (128, 256))
"""Rows and columns of y in the blocks of frequent kernels."""

FAR = 2.0
"""Points whose M differs by this many powers of two say nothing about each other."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A candidate for a product.

    Attributes:
        key: kernel and algorithm.
        us: its predicted time.
        gain: the logarithm of its predicted speed-up over dense.
        spread: the standard deviation of that logarithm among the nearby points.
        kept: the share of those points that kept the candidate.
    """

    key: Key
    us: float
    gain: float
    spread: float
    kept: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted times of a product.

    Attributes:
        dense_us: the dense product.
        ways: the candidates, fastest first; none if nothing nearby is recorded.
        sparse: whether the first of them is faster than dense by a margin.
    """

    dense_us: float
    ways: tuple[Way, ...]
    sparse: bool

    def decided(self, rules: Near) -> Prediction:
        """Return the prediction with `sparse` decided by the given rules."""
        sure = self.ways and self.ways[0].kept >= rules.share
        sparse = bool(sure) and self.ways[0].gain - rules.deviations * self.ways[0].spread > rules.margin
        return dataclasses.replace(self, sparse=sparse)


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A recorded point: its place, and the log times over rooflines of dense and its candidates."""

    place: tuple[float, ...]
    m: float
    foreign: bool
    dense: float
    ways: Mapping[Key, float]
    absent: Mapping[str, float]
    """The time of a candidate that isn't kept, by kernel; empty if not all were tried."""

    def over_roof(self, key: Key) -> float | None:
        """Return the log of a candidate's time over its roofline; None if that isn't known."""
        return self.ways.get(key, self.absent.get(key[0]))


class CostModel:
    """Predicts times from the points that are recorded for GPUs of one architecture.

    Args:
        hardware: the GPU to predict for.
        own: points of that GPU.
        borrowed: points of other GPUs of the same architecture and library, each with its GPU's figures.
        constants: the fitted constants; the shipped ones by default.
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
        """Add points of the GPU itself."""
        for point in own:
            self._recorded[point.dtype].append(self._read(point, self._hardware, foreign=False))

    def predict(self, product: Product) -> Prediction:
        """Predict the times of a product from all points recorded nearby."""
        near = self._near(product)
        total = sum(weight for weight, _ in near)
        over = sum(weight * point.dense for weight, point in near) / total if near else 0.0
        dense = self._roof("dense", product, self._hardware)
        ways = [
            self._way(key, product, near, total)
            for key in sorted({key for _, point in near for key in point.ways})
            if find(key[0]).is_tried_with(product.m)
        ]
        ways.sort(key=lambda way: (way.us, way.key))
        return Prediction(math.exp(dense + over), tuple(ways), False).decided(self._constants.near)

    def kernels(self, product: Product) -> list[tuple[str, float]]:
        """Return the sparse kernels and their roofline times, for an architecture without records."""
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
        """Return the nearest points with their weights."""
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
        """Return the log of a kernel's roofline; one that wasn't fitted has the library's."""
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
    """Return the times of a point's candidates, for each the best of its split-k's."""
    times: dict[Key, float] = {}
    for candidate in point.candidates:
        key = candidate.backend, candidate.algorithm
        times[key] = min(candidate.us, times.get(key, math.inf))
    return times


def absent_us(point: TunedPoint) -> float:
    """Estimate the time of a candidate that a fully tuned point doesn't keep.

    It is slower than the slowest kept one by an unknown factor. The estimate exceeds the slowest by the
    factor by which that exceeds the best, and by 5% at least.
    """
    best, slowest = point.candidates[0].us, point.candidates[-1].us
    return slowest * max(1.05, slowest / best)


def _squared(here: Sequence[float], there: Sequence[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(here, there, strict=True))
