"""Choice of a CPU policy from measurements: the fastest way at each M, and the M's at which to switch.

A packed layer runs by a sparse kernel or by the dense product. In memory mode ``compressed`` the dense weight
isn't kept and is decompressed for each product; in mode ``fast`` it is kept; in mode ``auto`` it is kept if
some M would lose without it. Every speed-up is over ``F.linear`` with a dense weight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.measurement import DENSE, Measurement
from sparseflow.runtime.dispatch.policy import TOLERANCE, Policy
from sparseflow.runtime.kernels import Choice
from sparseflow.support.arguments import Memory

_HORIZON = 1 << 20
"""Trends are extrapolated up to this M."""


def choose(
    measurements: Iterable[Measurement], memory: Memory = "compressed", *, call_us: float = 0.0
) -> Policy:
    """Return the policy that the measurements of one layer justify.

    At each measured M the fastest way runs, with hysteresis: the way of the M before is kept if it is within
    2% of dense, and of the fastest way within the larger of 2% and the spread of its times, 6% if other
    processes disturbed them, so that noise makes no ranges. Without a dense copy disturbed times may be 6%
    above dense, too. With one they may not: a layer must not lose where its copy could run.

    If the choices at two neighbouring measured M's differ, the switch is where their times cross,
    interpolated linearly in log time over log M: at the geometric midpoint if both win by the same factor,
    otherwise nearer to the one that wins by less.

    Below the first and above the last measured M the choice of the nearest one holds, with two exceptions.
    Below the first, the dense product runs if the dense weight is kept. In mode ``auto``, a sparse way whose
    lead over dense shrank between the last two measured M's runs only up to the M where the lead would be
    gone at that pace.

    Args:
        measurements: all of one (dtype, N, K), each M once, in any order.
        memory: whether the dense weight is kept and needs no decompression. ``"auto"`` keeps it if some M
            would lose without it; whether it is worth its memory is decided by `products.copies`.
        call_us: the microseconds that our operator takes beyond ``F.linear`` to run the kept weight.

    Returns:
        The policy. Check its ``pays`` before packing the layer, and its ``losing``.

    Raises:
        ArgumentError: there are no measurements, they are of several layers, or an M appears twice.
    """
    points = sorted(measurements, key=lambda point: point.m)
    if (
        not points
        or len({(p.dtype, p.n, p.k) for p in points}) > 1
        or len({p.m for p in points}) < len(points)
    ):
        raise ArgumentError("choose", "needs the measurements of one layer, each M once")
    kept = [dataclasses.replace(point, unpacked_us=point.dense_us + call_us) for point in points]
    if memory == "auto":
        return _wary(points, copied=False).unless_losing(_wary(kept, copied=True))
    copied = memory == "fast"
    timed = kept if copied else points
    return _policy(timed, _starts(timed, copied), copied)


def _wary(points: Sequence[Measurement], *, copied: bool) -> Policy:
    starts = _starts(points, copied)
    return _policy(points, [*starts, *_end(points, starts[-1][1])], copied)


def _policy(points: Sequence[Measurement], starts: list[tuple[int, Choice]], copied: bool) -> Policy:
    by_m = {point.m: point for point in points}
    return Policy.of(starts, by_m, lambda m, choice: by_m[m].speedup(choice), copied=copied)


def _end(points: Sequence[Measurement], running: Choice) -> list[tuple[int, Choice]]:
    """Return the switch to dense at the M where the last way's shrinking lead would be gone."""
    if running.is_dense or len(points) < 2 or math.isinf(points[-2].us(running)):
        return []
    before, now = (math.log(point.us(DENSE) / point.us(running)) for point in points[-2:])
    if now >= before:
        return []
    left, right = points[-2].m, points[-1].m
    end = math.log(right) + max(now, 0.0) / (before - now) * math.log(right / left)
    return [(max(right + 1, math.ceil(math.exp(end))), DENSE)] if end < math.log(_HORIZON) else []


def _starts(points: Sequence[Measurement], copied: bool) -> list[tuple[int, Choice]]:
    chosen = _chosen(points, copied)
    below = DENSE if copied and points[0].m > 1 else chosen[0]
    starts = [(1, below)] + [(points[0].m, chosen[0])] * (below != chosen[0])
    for i in range(1, len(points)):
        if chosen[i] != chosen[i - 1]:
            starts += _switch(points[i - 1], points[i], chosen[i - 1], chosen[i])
    return starts


def _chosen(points: Sequence[Measurement], copied: bool) -> list[Choice]:
    chosen: list[Choice] = []
    for point in points:
        best = min(point.ways(), key=point.us)
        running = chosen[-1] if chosen else best
        slower = point.tolerance if point.crowded and not copied else TOLERANCE
        near = min(point.tolerance * point.us(best), slower * point.dense_us)
        limit = max(point.us(best), near)
        bearable = point.us(running) <= limit
        chosen.append(running if bearable else best)
    return chosen


def _switch(left: Measurement, right: Measurement, before: Choice, after: Choice) -> list[tuple[int, Choice]]:
    """Return what starts in (left.m, right.m]; a kernel runs only between M's where it was timed."""
    starts, ends = math.isinf(left.us(after)), math.isinf(right.us(before))
    if starts and ends:
        return [(left.m + 1, DENSE), (right.m, after)] if right.m > left.m + 1 else [(right.m, after)]
    if starts or ends:
        return [(right.m if starts else left.m + 1, after)]
    return [(_crossing(left, right, before, after), after)]


def _crossing(left: Measurement, right: Measurement, before: Choice, after: Choice) -> int:
    """Return the first M in (left.m, right.m] at which ``after`` should run."""
    # The lead of `before` at the left point, which is negative if it only stayed by hysteresis, and the lead
    # of `after` at the right point, which is positive, as it is the fastest one there.
    lead = math.log(left.us(after) / left.us(before))
    lag = math.log(right.us(before) / right.us(after))
    share = max(lead, 0.0) / (max(lead, 0.0) + lag)
    crossing = left.m * math.exp(share * math.log(right.m / left.m))
    # Rounding errors of the logarithms must not move the crossing to the next M.
    return min(max(math.ceil(crossing - 1e-9 * crossing), left.m + 1), right.m)
