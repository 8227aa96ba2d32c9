"""From measurements to a policy: ranges of M and the backend that runs in each.

The dense weight isn't kept, so a packed layer can run in two ways: the sparse kernel, or decompress and
multiply densely. At each measured M the choice is between these two; what both are held against, and what
every reported speed-up refers to, is ``F.linear`` with a dense weight.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

from sparseflow.errors import ArgumentError
from sparseflow.runtime.backends import Backend
from sparseflow.runtime.dispatch.measurement import Measurement

# A backend already running is kept while it is at most this much slower than the best one, and than dense.
TOLERANCE = 1.02


@dataclasses.dataclass(frozen=True)
class Range:
    """The M's from ``m_min`` to ``m_max`` (None: without end) run on ``backend``.

    Attributes:
        m_min: first M.
        m_max: last M, or None.
        backend: what runs.
        speedup: the least speed-up over dense measured in the range, or None where nothing was measured.
        best: the greatest one.
    """

    m_min: int
    m_max: int | None
    backend: Backend
    speedup: float | None = None
    best: float | None = None

    def __str__(self) -> str:
        last = "…" if self.m_max is None else f"–{self.m_max}" if self.m_max != self.m_min else ""
        gain = "" if self.speedup is None else f" {self.speedup:.2f}×"
        if self.best is not None and f"{self.best:.2f}" != f"{self.speedup:.2f}":
            gain += f"–{self.best:.2f}×"
        return f"M={self.m_min}{last}: {self.backend.name.lower()}{gain}"


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which backend runs for which M. Without ranges the sparse kernel always runs.

    Attributes:
        ranges: ascending, without gaps, from M = 1, the last one without end.
        measurements: what the ranges were chosen from, ascending in M; empty for a parsed policy.
    """

    ranges: tuple[Range, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def backend(self, m: int) -> Backend:
        """The backend for M rows; M = 0 runs as M = 1 does."""
        chosen = Backend.CPU
        for entry in self.ranges:
            if entry.m_min <= max(m, 1):
                chosen = entry.backend
        return chosen

    @property
    def pays(self) -> bool:
        """Whether packing the layer was measured to reach dense speed at one M at least."""
        return any(entry.best is not None and entry.best >= 1.0 for entry in self.ranges)

    @property
    def losing(self) -> tuple[Range, ...]:
        """Ranges in which some measured M is more than 2% slower than dense."""
        return tuple(r for r in self.ranges if r.speedup is not None and r.speedup * TOLERANCE < 1.0)

    def why(self) -> str:
        """The decision in a sentence, with its figures."""
        if not self.measurements:
            return "not measured on this machine"
        if self.pays:
            return "measured against dense: " + ", ".join(str(entry) for entry in self.ranges)
        first, last = self.measurements[0].m, self.measurements[-1].m
        speed, at = max((m.speedup(self.backend(m.m)), m.m) for m in self.measurements)
        return (
            f"slower than dense at every measured M from {first} to {last}: at best {speed:.2f}×, at M={at}"
        )

    def __str__(self) -> str:
        return ",".join(f"{entry.m_min}:{entry.backend.name.lower()}" for entry in self.ranges)

    def to_ints(self) -> list[int]:
        """The operator's ``policy`` argument: ``[m0, b0, m1, b1, …]``."""
        return [number for entry in self.ranges for number in (entry.m_min, int(entry.backend))]

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read what ``str(policy)`` writes, such as ``"1:cpu,512:dense"``; empty text is the empty policy.

        Raises:
            ArgumentError: the text is malformed, has an unknown backend, or its M's aren't 1, then ascending.
        """
        return cls._of([_parse_entry(entry, text) for entry in text.split(",")] if text else [], text)

    @classmethod
    def from_ints(cls, numbers: Sequence[int]) -> Policy:
        """Read what ``to_ints`` gives.

        Raises:
            ArgumentError: an odd count, an unknown backend code, or M's that aren't 1, then ascending.
        """
        if len(numbers) % 2:
            raise _malformed(numbers, "needs pairs of M and backend code")
        known = {int(backend) for backend in Backend}
        for code in numbers[1::2]:
            if code not in known:
                raise _malformed(numbers, f"unknown backend code {code}")
        return cls._of(
            [(m, Backend(code)) for m, code in zip(numbers[::2], numbers[1::2], strict=True)], numbers
        )

    @classmethod
    def _of(cls, starts: list[tuple[int, Backend]], source: object) -> Policy:
        if starts and starts[0][0] != 1:
            raise _malformed(source, f"the first range must start at M=1, not {starts[0][0]}")
        for (before, _), (m, _) in itertools.pairwise(starts):
            if m <= before:
                raise _malformed(source, f"M must ascend, but {m} follows {before}")
        return cls(_ranges(starts))


def _malformed(source: object, rule: str) -> ArgumentError:
    return ArgumentError(
        f"policy {source!r}", rule, 'write ranges as "1:cpu,512:dense": from that M on, that backend'
    )


def _parse_entry(entry: str, text: str) -> tuple[int, Backend]:
    m, colon, name = entry.partition(":")
    if not colon or not (m.isascii() and m.isdigit()):
        raise _malformed(text, f"{entry!r} is not of the form M:backend")
    if name.upper() not in Backend.__members__ or name != name.lower():
        known = ", ".join(backend.name.lower() for backend in Backend)
        raise _malformed(text, f"unknown backend {name!r}; known: {known}")
    return int(m), Backend[name.upper()]


def _ranges(starts: Sequence[tuple[int, Backend]]) -> tuple[Range, ...]:
    following = itertools.zip_longest(starts, starts[1:])
    return tuple(Range(m, after[0] - 1 if after else None, backend) for (m, backend), after in following)


def choose(measurements: Iterable[Measurement]) -> Policy:
    """The policy that the measurements of one layer justify.

    At each measured M the faster backend runs; but the one of the M before is kept while it is within 2% of
    the faster one and of dense, so that noise makes no ranges. Between two measured M's with different
    backends, the switch is where their times cross, interpolated linearly in log time over log M: the
    geometric midpoint when both win alike, nearer to the one that wins by less otherwise. Below the first
    and above the last measured M the nearest one's choice holds.

    Args:
        measurements: of one (dtype, N, K), each M once, in any order.

    Returns:
        The policy; look at ``pays`` before packing the layer, and at ``losing``.

    Raises:
        ArgumentError: no measurements, of several layers, or an M twice.
    """
    points = sorted(measurements, key=lambda point: point.m)
    if (
        not points
        or len({(p.dtype, p.n, p.k) for p in points}) > 1
        or len({p.m for p in points}) < len(points)
    ):
        raise ArgumentError("choose", "needs the measurements of one layer, each M once")
    backends = _backends(points)
    starts = [(1, backends[0])]
    for i in range(1, len(points)):
        if backends[i] is not backends[i - 1]:
            starts.append((_crossing(points[i - 1], points[i], backends[i - 1], backends[i]), backends[i]))
    ranges = tuple(_with_figures(entry, points) for entry in _ranges(starts))
    return Policy(ranges, tuple(points))


def _backends(points: Sequence[Measurement]) -> list[Backend]:
    chosen: list[Backend] = []
    for point in points:
        best = min(Backend, key=point.us)
        running = chosen[-1] if chosen else best
        limit = max(point.us(best), TOLERANCE * min(point.us(best), point.dense_us))
        bearable = point.us(running) <= limit
        chosen.append(running if bearable else best)
    return chosen


def _crossing(left: Measurement, right: Measurement, before: Backend, after: Backend) -> int:
    """The first M in (left.m, right.m] at which ``after`` should run."""
    lead = math.log(
        left.us(after) / left.us(before)
    )  # of `before` at the left point; < 0 if it was merely kept
    lag = math.log(right.us(before) / right.us(after))  # > 0: `after` is the best one there
    share = max(lead, 0.0) / (max(lead, 0.0) + lag)
    crossing = left.m * math.exp(share * math.log(right.m / left.m))
    # The sum of logarithms misses whole numbers by a rounding error, which must not cost a whole M.
    return min(max(math.ceil(crossing - 1e-9 * crossing), left.m + 1), right.m)


def _with_figures(entry: Range, points: Sequence[Measurement]) -> Range:
    last = math.inf if entry.m_max is None else entry.m_max
    measured = [p.speedup(entry.backend) for p in points if entry.m_min <= p.m <= last]
    return dataclasses.replace(entry, speedup=min(measured), best=max(measured))
