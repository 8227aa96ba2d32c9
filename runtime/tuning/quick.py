"""Quick tuning: which few candidates of a product are worth a measurement, by the cost model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from sparseflow.runtime.tuning.cost_model import CostModel, Way
from sparseflow.runtime.tuning.gpu_table import TunedTable, borrowed, trusted
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.point import KEPT, TunedPoint
from sparseflow.runtime.tuning.protocol import Key, Request
from sparseflow.runtime.tuning.roofline import Product
from sparseflow.runtime.tuning.sweep import FIRST_M, PLANS
from sparseflow.runtime.tuning.task import Task

LIKELY = 1.5
"""A candidate predicted to be so many times slower than the best one isn't tried, nor is such a kernel."""

BASE_SECONDS, SHAPE_SECONDS = 8.0, 3.0

PATIENCE = 10.0
"""Seconds without a word after which the measuring process hangs."""

STARTUP = 60.0
"""The same before its first word; the caller has imported torch by then, so that it comes from memory."""


def seconds_for(shapes: int) -> float:
    """The time that quick tuning may take for so many layer shapes, the start of its process included."""
    return BASE_SECONDS + SHAPE_SECONDS * shapes


def breadth_first(tasks: Iterable[Task]) -> list[Task]:
    """Each layer's most telling M's, then each layer's others; a layer's in a row, as they share a weight."""
    first: list[Task] = []
    others: list[Task] = []
    for task in tasks:
        (first if task.m in FIRST_M else others).append(task)
    return first + others


class Plan:
    """Says for each point what to measure, and learns from each that was.

    Args:
        model: of the GPU.
    """

    def __init__(self, model: CostModel) -> None:
        self._model = model

    @classmethod
    def of(cls, table: TunedTable, hardware: Hardware) -> Plan:
        """A plan by all that is known of the GPU of a table, and of its architecture."""
        known = itertools.chain(trusted(table.machine) or (), table)
        own = {(point.dtype, point.n, point.k, point.m): point for point in known}
        elsewhere = [
            (point, Hardware.named(other.machine.gpu)) for other in borrowed(table.machine) for point in other
        ]
        return cls(CostModel(hardware, own.values(), elsewhere))

    def learn(self, point: TunedPoint) -> None:
        """Take a new point in."""
        self._model.add([point])

    def request(self, task: Task) -> Request:
        """What to ask for: the candidates that are expected to be fastest.

        Where nothing near by is recorded, as on an architecture that nobody tuned, these are all candidates
        of the kernels that are expected to be fast.
        """
        product = Product(task.dtype, task.n, task.k, task.m)
        ways = self._model.predict(product).ways
        asked = Request(task.dtype, task.n, task.k, task.m, effort="quick")
        if ways:
            return asked.replace(only=candidates(task.dtype, ways))
        kernels = self._model.kernels(product)
        return asked.replace(kernels=tuple(name for name, us in kernels if us <= LIKELY * kernels[0][1]))


def candidates(dtype: str, ways: Sequence[Way]) -> tuple[Key, ...]:
    """The first few that the cost model ranks; split-k is the library's choice, as good as any."""
    plans = PLANS.get(dtype, KEPT)
    likely = [way.key for way in ways if way.us <= LIKELY * ways[0].us]
    planned = [key for key in likely if key[0] == "cusparselt"][:plans]
    tried = [key for key in likely if key[0] != "cusparselt" or key in planned]
    return tuple((*key, 0) for key in tried[:KEPT])
