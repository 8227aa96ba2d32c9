"""Rules for measuring a doubtful point again, and for choosing between two measurements of a point."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.kernels import Choice

TRIES = 3
"""The most measurements of a point whose times don't agree, or don't fit those of its neighbours."""

FAR = 2.0
"""A speed-up that differs by this factor from those at both neighbouring M's is implausible."""


def doubtful(rows: Sequence[Measurement], *, crowd: bool = False) -> list[int]:
    """Return the M's to measure again: crowded ones, and unsettled or implausible ones with few tries.

    Args:
        rows: of one layer, ascending in M.
        crowd: other processes keep cores busy now: what was measured in a crowd would be no better.
    """
    strange = implausible(rows)
    return [
        row.m
        for row in rows
        if (row.crowded and not crowd) or (row.tries < TRIES and (not row.settled or row.m in strange))
    ]


def implausible(rows: Sequence[Measurement]) -> set[int]:
    """Return the M's at which the speed-up of some way differs by `FAR` from those of both neighbours.

    At the first and last M there is one neighbour, which has to be far twice over.

    Args:
        rows: of one layer, ascending in M.
    """
    gains: dict[Choice, list[tuple[int, float]]] = {}
    for row in rows:
        for way in row.ways():
            gains.setdefault(way, []).append((row.m, math.log2(row.speedup(way))))
    return {m for points in gains.values() for m in _far(points)}


def _far(gains: Sequence[tuple[int, float]]) -> set[int]:
    limit = math.log2(FAR)
    ms = [m for m, _ in gains]
    steps = [right - left for (_, left), (_, right) in itertools.pairwise(gains)]
    far = {
        m
        for m, before, after in zip(ms[1:], steps, steps[1:], strict=False)
        if min(before, -after) > limit or max(before, -after) < -limit
    }
    for end, neighbour in ((0, 1), (-1, -2)):
        if steps and ms[neighbour] not in far and abs(steps[end]) > 2 * limit:
            far.add(ms[end])
    return far


def better(old: Measurement, new: Measurement) -> Measurement:
    """Return the better of two measurements of one point, with the tries of both.

    A measurement without other busy processes is preferred, then one with more threads, then a settled one.
    If the two are alike, the result has the lower time of each side, because other processes only add time.
    If the kernels differ, the new measurement is returned.
    """
    kept = new
    if dict(old.sparse_us).keys() == dict(new.sparse_us).keys():
        kept = _lower(old, new) if _rank(old) == _rank(new) else min(old, new, key=_rank)
    return dataclasses.replace(kept, tries=old.tries + new.tries)


def _rank(row: Measurement) -> tuple[bool, int, bool]:
    return row.crowded, -row.threads, not row.settled


def _lower(old: Measurement, new: Measurement) -> Measurement:
    before = dict(old.sparse_us)
    return dataclasses.replace(
        new,
        dense_us=min(old.dense_us, new.dense_us),
        unpacked_us=min(old.unpacked_us, new.unpacked_us),
        sparse_us=tuple((way, min(us, before[way])) for way, us in new.sparse_us),
        spread=max(old.spread, new.spread),
    )
