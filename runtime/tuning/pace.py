"""How much time a point may take, and which candidates it tries, by the effort that is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from sparseflow.runtime.tuning.protocol import Key, Request
from sparseflow.runtime.tuning.replay import CALLS
from sparseflow.runtime.tuning.sweep import PLANS

_RATE = 4e8
"""Operations a µs that some GPU does: from how many on a product is long needs no better guess."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """The bounds of a point.

    Attributes:
        most_rounds: of the last measurement in turns.
        graph_us: how long a graph need take.
        last_us: how long the last measurement may take, all rounds together.
        seconds: after which, plans being there, no further candidate is tried.
    """

    most_rounds: int
    graph_us: float
    last_us: float
    seconds: float

    def calls(self, n: int, k: int, m: int) -> int:
        """How many calls of a product a graph makes: fewer of a long one."""
        return max(1, math.ceil(min(CALLS, self.graph_us * _RATE / (2 * n * k * m))))

    def rounds(self, us: float) -> int:
        """How many rounds of so many µs are measured."""
        return max(1, int(min(self.most_rounds, self.last_us / max(us, 1.0))))


PACES = {
    "full": Pace(9, math.inf, math.inf, math.inf),
    "quick": Pace(3, 2e3, 1e5, 0.35),
}


def wanted(request: Request, found: Mapping[str, Sequence[Key]]) -> list[Key]:
    """Which of the candidates that kernels have for a point are tried, in this order.

    Args:
        request: the point.
        found: the candidates by kernel.
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
    """So many of the keys, the first one and others at equal distances."""
    count = min(count, len(keys))
    return [keys[place * len(keys) // count] for place in range(count)]
