"""Which measured points are to be measured again, and which of two measurements of a point is kept."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from sparseflow.runtime.dispatch.measurement import Measurement
from sparseflow.runtime.kernels import Choice

TRIES = 3
"""A point whose times don't agree, or don't fit its neighbours', stands after this many measurements."""

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
    """The measurement to keep of two of one point, with the tries of both.

    One without a crowd, else one that settled, else the one of the lower times: noise only adds. One that has
    times of more kernels, or of more threads, replaces the other.
    """
    same = dict(old.sparse_us).keys() == dict(new.sparse_us).keys()
    kept = min(new, old, key=_rank) if same else new
    return dataclasses.replace(kept, tries=old.tries + new.tries)


def _rank(row: Measurement) -> tuple[bool, bool, int, float]:
    times = [row.dense_us, row.unpacked_us, *(us for _, us in row.sparse_us)]
    return row.crowded, not row.settled, -row.threads, sum(map(math.log, times))
