"""Policies: ranges of M with what runs in each, and the figures that justify them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from sparseflow.errors import ArgumentError
from sparseflow.runtime.kernels import Choice

TOLERANCE = 1.02
"""Slower than dense by up to this factor counts as equal, as repeated measurements differ by as much."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The M's from ``m_min`` to ``m_max``, which are run by ``choice``.

    Attributes:
        m_min: the first M.
        m_max: the last M; None for a range without end.
        choice: the kernel that runs.
        speedup: the least speed-up over dense measured in the range; None if nothing was measured in it.
        best: the largest such speed-up.
    """

    m_min: int
    m_max: int | None
    choice: Choice
    speedup: float | None = None
    best: float | None = None

    @property
    def kernel(self) -> str:
        """The name of the kernel that runs."""
        return self.choice.kernel

    def __str__(self) -> str:
        last = "…" if self.m_max is None else f"–{self.m_max}" if self.m_max != self.m_min else ""
        gain = "" if self.speedup is None else f" {self.speedup:.2f}×"
        if self.best is not None and f"{self.best:.2f}" != f"{self.speedup:.2f}":
            gain += f"–{self.best:.2f}×"
        return f"M={self.m_min}{last}: {self.choice}{gain}"


@dataclasses.dataclass(frozen=True)
class Policy:
    """What runs for which M. A policy without ranges always runs the device's own sparse kernel.

    Attributes:
        ranges: ascending, without gaps, from M = 1; the last one has no end.
        measured: each measured M, ascending, with the speed-up over dense of what runs there; empty for a
            parsed policy.
        keeps_dense: whether the dense weight is kept beside the packed one, for the M's that run densely.
        alone: the policy without a dense copy, if the copy is kept only because some M would lose without it.
    """

    ranges: tuple[Range, ...] = ()
    measured: tuple[tuple[int, float], ...] = ()
    keeps_dense: bool = False
    alone: Policy | None = None

    @classmethod
    def of(
        cls,
        starts: Iterable[tuple[int, Choice]],
        ms: Iterable[int],
        speedup: Callable[[int, Choice], float],
        *,
        copied: bool = False,
    ) -> Policy:
        """Return the policy of some ranges, with the figures that were measured in them.

        Args:
            starts: the first M of each range, from 1 on, and what runs there; equal neighbours are merged.
            ms: the measured M's, ascending.
            speedup: returns the speed-up over dense of a choice at a measured M.
            copied: whether the dense weight is kept if any M runs densely.
        """
        plain = cls(_ranges(_joined(starts)))
        measured = tuple((m, speedup(m, plain.choice(m))) for m in ms)
        ranges = tuple(_with_figures(entry, measured) for entry in plain.ranges)
        return cls(ranges, measured, keeps_dense=copied and plain.wants_dense)

    def unless_losing(self, kept: Policy) -> Policy:
        """Return this policy if the weight can be packed alone without losing at any M.

        Args:
            kept: the policy of the same layer with its dense weight beside the packed one.

        Returns:
            This policy, or `kept` with this one as its `alone` if a measured M is more than 2% slower than
            dense or M = 1 was not measured.
        """
        if self.measured and self.measured[0][0] == 1 and not self.losing:
            return self
        return dataclasses.replace(kept, alone=self)

    def choice(self, m: int) -> Choice:
        """Return what runs for M rows; M = 0 runs as M = 1 does."""
        chosen = Choice("cpu")
        for entry in self.ranges:
            if entry.m_min <= max(m, 1):
                chosen = entry.choice
        return chosen

    def kernel(self, m: int) -> str:
        """Return the name of the kernel for M rows."""
        return self.choice(m).kernel

    @property
    def pays(self) -> bool:
        """Whether sparse was measured to reach dense speed at one M at least."""
        return _pay(self.ranges)

    def speedup(self, m: int) -> float:
        """Return the speed-up over dense at the last measured M up to m; 1 if there is none."""
        return next((speed for at, speed in reversed(self.measured) if at <= m), 1.0)

    def pays_above(self, m: int) -> bool:
        """Return whether sparse was measured to reach dense speed at one M above m at least."""
        return _pay(self.above(m))

    def above(self, m: int) -> tuple[Range, ...]:
        """Return the ranges above m, the first one cut, with the figures measured there."""
        left = (entry for entry in self.ranges if entry.m_max is None or entry.m_max > m)
        cut = (
            dataclasses.replace(entry, m_min=max(entry.m_min, m + 1), speedup=None, best=None)
            for entry in left
        )
        return tuple(_with_figures(entry, self.measured) for entry in cut)

    @property
    def gain(self) -> tuple[float, int]:
        """The largest measured speed-up over dense and its M; (1, 1) if nothing was measured."""
        return max(((speed, m) for m, speed in self.measured), default=(1.0, 1))

    @property
    def worst(self) -> tuple[float, int]:
        """The least measured speed-up over dense and its M; (1, 1) if nothing was measured."""
        return min(((speed, m) for m, speed in self.measured), default=(1.0, 1))

    @property
    def wants_dense(self) -> bool:
        """Whether some M runs densely, so that a kept dense weight would be read."""
        return any(entry.choice.is_dense for entry in self.ranges)

    @property
    def losing(self) -> tuple[Range, ...]:
        """The ranges in which a measured M is more than 2% slower than dense."""
        return tuple(r for r in self.ranges if r.speedup is not None and r.speedup * TOLERANCE < 1.0)

    def why(self, above: int = 0) -> str:
        """Return the decision as a sentence with its figures.

        Args:
            above: leave out this M and all below.
        """
        measured = [(m, speed) for m, speed in self.measured if m > above]
        if not measured:
            return "not measured on this machine" + (f" for M above {above}" if above else "")
        if self.pays_above(above):
            return "measured against dense: " + ", ".join(str(entry) for entry in self.above(above))
        first, last = measured[0][0], measured[-1][0]
        speed, at = max((speed, m) for m, speed in measured)
        return (
            f"no faster than dense at any measured M from {first} to {last}: at best {speed:.2f}×, at M={at}"
        )

    def __str__(self) -> str:
        return ",".join(f"{entry.m_min}:{entry.choice}" for entry in self.ranges)

    def to_ints(self) -> list[int]:
        """Return the operator's ``policy`` argument, ``[m0, c0, m1, c1, …]`` with codes of `Choice.code`."""
        return [number for entry in self.ranges for number in (entry.m_min, entry.choice.code)]

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Parse the text of a policy, such as ``"1:cpu,512:dense"``; empty text is the empty policy.

        Raises:
            ArgumentError: the text is malformed, has an unknown kernel, or its M's aren't 1, then ascending.
        """
        return cls._of([_parse_entry(entry, text) for entry in text.split(",")] if text else [], text)

    @classmethod
    def from_ints(cls, numbers: Sequence[int]) -> Policy:
        """Build a policy from the operator's argument, the inverse of `to_ints`.

        Raises:
            ArgumentError: an odd count, an unknown kernel code, or M's that aren't 1, then ascending.
        """
        if len(numbers) % 2:
            raise _malformed(numbers, "needs pairs of M and kernel code")
        starts = []
        for m, code in zip(numbers[::2], numbers[1::2], strict=True):
            try:
                starts.append((m, Choice.from_code(code)))
            except ArgumentError:
                raise _malformed(numbers, f"unknown kernel code {code}") from None
        return cls._of(starts, numbers)

    @classmethod
    def _of(cls, starts: list[tuple[int, Choice]], source: object) -> Policy:
        if starts and starts[0][0] != 1:
            raise _malformed(source, f"the first range must start at M=1, not {starts[0][0]}")
        for (before, _), (m, _) in itertools.pairwise(starts):
            if m <= before:
                raise _malformed(source, f"M must ascend, but {m} follows {before}")
        return cls(_ranges(starts))


def _pay(ranges: Iterable[Range]) -> bool:
    return any(r.best is not None and r.best >= 1.0 for r in ranges if not r.choice.is_dense)


def _malformed(source: object, rule: str) -> ArgumentError:
    return ArgumentError(
        f"policy {source!r}", rule, 'write ranges as "1:cpu,512:dense": from that M on, that kernel'
    )


def _parse_entry(entry: str, text: str) -> tuple[int, Choice]:
    m, colon, choice = entry.partition(":")
    if not colon or not (m.isascii() and m.isdigit()):
        raise _malformed(text, f"{entry!r} is not of the form M:kernel")
    try:
        return int(m), Choice.parse(choice)
    except ArgumentError as error:
        raise _malformed(text, error.rule) from None


def _joined(starts: Iterable[tuple[int, Choice]]) -> list[tuple[int, Choice]]:
    kept: list[tuple[int, Choice]] = []
    for m, choice in starts:
        if not kept or kept[-1][1] != choice:
            kept.append((m, choice))
    return kept


def _ranges(starts: Sequence[tuple[int, Choice]]) -> tuple[Range, ...]:
    following = itertools.zip_longest(starts, starts[1:])
    return tuple(Range(m, after[0] - 1 if after else None, choice) for (m, choice), after in following)


def _with_figures(entry: Range, measured: Iterable[tuple[int, float]]) -> Range:
    last = math.inf if entry.m_max is None else entry.m_max
    speeds = [speed for m, speed in measured if entry.m_min <= m <= last]
    return dataclasses.replace(entry, speedup=min(speeds), best=max(speeds)) if speeds else entry
