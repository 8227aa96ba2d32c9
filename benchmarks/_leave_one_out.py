"""What the cost model would choose for each recorded point if its shape had never been measured.

For each shape a model is made of all other shapes' points, and asked for every row of it. Rule for a first
choice that the row doesn't keep: `absent_us`, beyond the slowest that is kept by as much as that is beyond
the best, and by 5 % at least.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparseflow.runtime.tuning import TunedPoint
from sparseflow.runtime.tuning.cost_model import CostModel, Prediction, absent_us, by_key
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.roofline import Constants, Product

LEAST = 0.95
"""Of dense: what no choice to run sparse may be below."""


@dataclass(frozen=True)
class Outcome:
    """A recorded point beside what was predicted for it.

    Attributes:
        point: as recorded.
        predicted: from the other shapes.
    """

    point: TunedPoint
    predicted: Prediction

    @property
    def kept(self) -> bool:
        """Whether the first candidate is among the recorded ones."""
        return self.predicted.ways[0].key in by_key(self.point)

    @property
    def us(self) -> float:
        """What the first choice takes: dense, or the first candidate."""
        if not self.predicted.sparse:
            return self.point.dense_us
        return by_key(self.point).get(self.predicted.ways[0].key, absent_us(self.point))

    @property
    def best_us(self) -> float:
        """What the recorded best takes, dense or sparse."""
        return min(self.point.dense_us, self.point.candidates[0].us)

    @property
    def over_best(self) -> float:
        """By which factor the first choice takes longer than the best."""
        return self.us / self.best_us


def outcomes(points: Sequence[TunedPoint], hardware: Hardware, constants: Constants) -> list[Outcome]:
    """The outcome of each point, predicted without its shape."""
    found = []
    for shape in dict.fromkeys((point.n, point.k) for point in points):
        others = [point for point in points if (point.n, point.k) != shape]
        model = CostModel(hardware, others, constants=constants)
        for point in points:
            if (point.n, point.k) == shape:
                product = Product(point.dtype, point.n, point.k, point.m)
                found.append(Outcome(point, model.predict(product)))
    return found


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def over_best(found: Iterable[Outcome]) -> float:
    """By which factor first choices take longer than the best, in the geometric mean."""
    return geometric_mean(outcome.over_best for outcome in found)


def worst(found: Iterable[Outcome]) -> float:
    """The smallest speed-up over dense where the first choice is sparse."""
    sparse = (outcome for outcome in found if outcome.predicted.sparse)
    return min((outcome.point.dense_us / outcome.us for outcome in sparse), default=math.inf)
