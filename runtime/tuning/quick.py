"""Quick tuning: the few candidates of a product that are worth measuring, by the cost model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from sparseflow.runtime.kernels import Problem
from sparseflow.runtime.kernels.wide import WIDE
from sparseflow.runtime.tuning.cost_model import CostModel, Way
from sparseflow.runtime.tuning.gpu_table import TunedTable, borrowed, trusted
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.point import KEPT, TunedPoint, finalists
from sparseflow.runtime.tuning.protocol import Key, Request
from sparseflow.runtime.tuning.roofline import Product
from sparseflow.runtime.tuning.sweep import FIRST_M, PLANS, format_of
from sparseflow.runtime.tuning.task import Task

LIKELY = 1.5
"""A candidate, or a kernel, that is predicted to be this factor slower than the best one isn't tried."""

BASE_SECONDS, SHAPE_SECONDS = 8.0, 3.0

PATIENCE = 10.0
"""Seconds without a message after which the measuring process counts as hung."""

STARTUP = 60.0
"""Seconds until its first message; torch is imported from memory, as the caller has read it already."""


def seconds_for(shapes: int) -> float:
    """Return the seconds that quick tuning may take for a number of shapes, process start included."""
    return BASE_SECONDS + SHAPE_SECONDS * shapes


def breadth_first(tasks: Iterable[Task]) -> list[Task]:
    """Return each layer's most telling M's, then each layer's other M's; M's of a layer share a weight."""
    first: list[Task] = []
    others: list[Task] = []
    for task in tasks:
        (first if task.m in FIRST_M else others).append(task)
    return first + others


class Plan:
    """Chooses for each point what to measure, and learns from each measured point.

    Args:
        model: the GPU's cost model.
    """

    def __init__(self, model: CostModel) -> None:
        self._model = model

    @classmethod
    def of(cls, table: TunedTable, hardware: Hardware) -> Plan:
        """Return a plan from all that is known of a table's GPU and its architecture."""
        known = itertools.chain(trusted(table.machine) or (), table)
        own = {(point.dtype, point.n, point.k, point.m): point for point in known}
        elsewhere = [
            (point, Hardware.named(other.machine.gpu)) for other in borrowed(table.machine) for point in other
        ]
        return cls(CostModel(hardware, own.values(), elsewhere))

    def learn(self, point: TunedPoint) -> None:
        """Add a new point."""
        self._model.add([point])

    def request(self, task: Task) -> Request:
        """Return the request for a point, with the candidates that are expected to be fastest.

        If nothing nearby is recorded, as on an architecture that was never tuned, these are all candidates of
        the kernels that are expected to be fast.
        """
        product = Product(task.dtype, task.n, task.k, task.m)
        ways = self._model.predict(product).ways
        asked = Request(task.dtype, task.n, task.k, task.m, effort="quick")
        if ways:
            return asked.replace(only=(*unrecorded(product, ways), *candidates(task.dtype, ways)))
        kernels = self._model.kernels(product)
        return asked.replace(kernels=tuple(name for name, us in kernels if us <= LIKELY * kernels[0][1]))


def unrecorded(product: Product, ways: Sequence[Way]) -> tuple[Key, ...]:
    """Return the variants of the kernel for many rows if no record names it, as in tables older than it is.

    The cost model predicts only what is recorded, so that the kernel would never be tried.
    """
    if any(way.key[0] == WIDE.name for way in ways):
        return ()
    problem = Problem(product.dtype, product.n, product.k, "cuda", product.m, format_of(product.dtype, "2:4"))
    if WIDE.unsuited(problem) is not None:
        return ()
    return tuple((choice.kernel, choice.algorithm, 0) for choice in WIDE.candidates(problem))


def candidates(dtype: str, ways: Sequence[Way]) -> tuple[Key, ...]:
    """Return the first few candidates that the cost model ranks, with the library's choice of split-k."""
    plans = PLANS.get(dtype, KEPT)
    likely = [way.key for way in ways if way.us <= LIKELY * ways[0].us]
    planned = [key for key in likely if key[0] == "cusparselt"][:plans]
    tried = [key for key in likely if key[0] != "cusparselt" or key in planned]
    return tuple(finalists(dtype, ((*key, 0) for key in tried)))
