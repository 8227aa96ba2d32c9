"""Which measured points are to be measured again, and which of two measurements of a point is kept."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.kernels import Choice

TRIES = 3
"""A point whose times don't agree, or don't fit its neighbours', stands after so many."""

FAR = 2.0
"""A speed-up this many times above, or below, those at both neighbouring M's is suspicious."""


def doubtful(rows: Sequence[Measurement], *, crowd: bool = False) -> list[int]:
    """The M's to measure again: crowded ones, and those not settled or implausible that had few tries.

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
    """The M's at which some way's speed-up is far above, or far below, that of both neighbours.

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
    """What to keep of two measurements of one point, with the tries of both.

    The one without a crowd, else by more threads, else that settled. Of two alike each side's lower time:
    other processes only add, and phases in which they take the caches pass. One with other kernels replaces
    the old one.
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
