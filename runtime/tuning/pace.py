"""The time that a point may take, and the candidates that it tries, by the effort."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from sparseflow.runtime.tuning.protocol import Key, Request
from sparseflow.runtime.tuning.replay import CALLS
from sparseflow.runtime.tuning.sweep import PLANS

_RATE = 4e8
"""A typical rate in operations a µs, enough of an estimate to tell which products are long."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """The bounds of measuring a point.

    Attributes:
        most_rounds: the most rounds of the final measurement in turns.
        graph_us: the sufficient duration of a graph in µs.
        last_us: the most µs of the final measurement, all rounds together.
        seconds: the time after which, once plans are built, no further candidate is tried.
    """

    most_rounds: int
    graph_us: float
    last_us: float
    seconds: float

    def calls(self, n: int, k: int, m: int) -> int:
        """Return how many calls of a product a graph makes; fewer for a long product."""
        return max(1, math.ceil(min(CALLS, self.graph_us * _RATE / (2 * n * k * m))))

    def rounds(self, us: float) -> int:
        """Return how many rounds to measure if one takes so many µs."""
        return max(1, int(min(self.most_rounds, self.last_us / max(us, 1.0))))


PACES = {
    "full": Pace(9, math.inf, math.inf, math.inf),
    "quick": Pace(3, 2e3, 1e5, 0.35),
}


def wanted(request: Request, found: Mapping[str, Sequence[Key]]) -> list[Key]:
    """Return the candidates to try for a point, in order.

    Args:
        request: the point.
        found: all candidates by kernel.
    """
    if request.only:
        return [key for key in request.only if key in found.get(key[0], ())]
    named = {name: keys for name, keys in found.items() if keys and name in request.kernels} or found
    few = PLANS.get(request.dtype) if request.effort == "quick" else None
    return [
        key
        for name, keys in named.items()
        for key in (spread(keys, few) if few and name == "cusparselt" else keys)
    ]


def spread(keys: Sequence[Key], count: int) -> list[Key]:
    """Return ``count`` of the keys: the first one and others at equal distances."""
    count = min(count, len(keys))
    return [keys[place * len(keys) // count] for place in range(count)]
