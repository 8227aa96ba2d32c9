"""The candidates of a point while they are measured, possibly by several child processes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

from sparseflow.runtime.kernels import find
from sparseflow.runtime.kernels.outputs import output_dtype
from sparseflow.runtime.tuning.point import FP8, KEPT, Candidate, Failure, TunedPoint, wrong
from sparseflow.runtime.tuning.process import Lost
from sparseflow.runtime.tuning.protocol import (
    PLANS,
    Count,
    Doing,
    Done,
    Failed,
    Key,
    Measured,
    Message,
    Ready,
    Refused,
    Request,
    Trying,
)


class Ledger:
    """The candidates of one point: the measured ones, the failed ones, and the one that runs now.

    Args:
        request: the point.
        barred: candidates that must not run, and why.
    """

    def __init__(self, request: Request, barred: Mapping[Key, str]) -> None:
        self._request = request
        self._known: dict[Key, Candidate] = {}
        self._failed = {key: Failure(*key, f"not tried: {why}") for key, why in barred.items()}
        self._count = Count({})
        self._closed = False
        self._together = request.together
        self._doing = ""
        self.announced: Key | None = None

    @property
    def settled(self) -> int:
        """The number of candidates that were measured or failed."""
        return len(self._known) + len(self._failed)

    @property
    def nothing_measured(self) -> bool:
        """Whether no candidate was measured."""
        return not self._known

    @property
    def activity(self) -> str:
        """The step that the child was last doing, as a phrase for errors."""
        return f" while {self._doing}" if self._doing else ""

    def begin(self) -> Request:
        """Return the request for a child that is new or has just finished another point."""
        self.announced, self._doing = None, ""
        skip = tuple(self._failed)
        if self._closed:
            skip = tuple(key for key in self._every() if key not in self._known)
        return dataclasses.replace(
            self._request, skip=skip, known=tuple(self._known.values()), together=self._together
        )

    def build_singly(self) -> bool:
        """Switch to building plans one by one if the child was lost while building all; return whether."""
        if not self._together or self._doing != PLANS:
            return False
        self._together = False
        return True

    def fail(self, key: Key, why: str) -> None:
        """Record that a candidate failed; the first reason stays."""
        self._known.pop(key, None)
        self._failed.setdefault(key, Failure(*key, why))

    def close(self, why: str) -> None:
        """Fail all candidates that weren't measured, so that none is tried any more."""
        self._closed = True
        for key in self._every():
            if key[2] == 0 and key not in self._known:
                self.fail(key, why)

    def _every(self) -> list[Key]:
        return [
            (name, candidate, split_k)
            for name, count in self._count.candidates.items()
            for candidate in range(count)
            for split_k in find(name).splits
            if not self._request.only or (name, candidate, split_k) in self._request.only
        ]

    def _asked_for(self, key: Key) -> bool:
        return key in self._every() and key not in self._failed

    @functools.singledispatchmethod
    def take(self, message: Message) -> TunedPoint | str | None:
        """Record a message from the child.

        Returns:
            The finished point, or why it can't be measured; None while measuring goes on.

        Raises:
            Lost: the child reports what can't be true of any candidate.
        """
        raise TypeError(f"no message: {message!r}")

    @take.register
    def _(self, message: Ready) -> None:
        pass

    @take.register
    def _(self, message: Doing) -> None:
        self.announced, self._doing = None, message.what

    @take.register
    def _(self, message: Count) -> None:
        self._count = message

    @take.register
    def _(self, message: Trying) -> None:
        key = message.backend, message.algorithm, message.split_k
        self.announced = key if self._asked_for(key) else None
        self._doing = ""

    @take.register
    def _(self, message: Failed) -> None:
        # It stays announced: if the child exits next, this candidate broke its process.
        key = message.backend, message.algorithm, message.split_k
        if self._asked_for(key):
            self.fail(key, message.why)

    @take.register
    def _(self, message: Measured) -> None:
        key = message.backend, message.algorithm, message.split_k
        if key != self.announced:
            self.fail(key, "reported without having been asked for")
        elif why := self._contradiction(message):
            self.fail(key, why)
        else:
            self._known[key] = Candidate(*key, message.us, message.rel_err)
        self.announced = None

    @take.register
    def _(self, message: Refused) -> str:
        return message.why

    @take.register
    def _(self, message: Done) -> TunedPoint:
        self.announced = None
        for name in ("dense_us", "unpacked_us", "dense_bf16_us"):
            us = getattr(message, name)
            absent = name == "dense_bf16_us" and self._request.dtype != FP8
            if us is not None if absent else us is None or not _is_time(us):
                raise Lost(f"reported {us} as {name}")
        unscaled = message.unscaled_us
        if unscaled is not None and (self._request.dtype != FP8 or not _is_time(unscaled)):
            raise Lost(f"reported {unscaled} as unscaled_us")
        for measured in message.candidates:
            key = measured.backend, measured.algorithm, measured.split_k
            if key not in self._known:
                self.fail(key, "reported without having been asked for")
            elif why := self._contradiction(measured):
                self.fail(key, why)
            else:
                self._known[key] = Candidate(*key, measured.us, measured.rel_err)
        return self._point(message)

    def _contradiction(self, measured: Measured) -> str | None:
        if not _is_time(measured.us):
            return f"reported a time of {measured.us:g} µs"
        return wrong(self._request.dtype, measured.rel_err)

    def _point(self, done: Done) -> TunedPoint:
        asked = self._request
        final = [
            key
            for key in ((c.backend, c.algorithm, c.split_k) for c in done.candidates)
            if key in self._known
        ]
        best = sorted((self._known[key] for key in dict.fromkeys(final)), key=lambda c: (c.us, c.key))
        return TunedPoint(
            asked.dtype,
            output_dtype(asked.dtype),
            asked.n,
            asked.k,
            asked.m,
            done.dense_us,
            done.unpacked_us,
            tuple(best[:KEPT]),
            tuple(sorted(self._failed.values())),
            done.dense_bf16_us,
            asked.effort,
            done.unscaled_us if any(c.backend == "cusparselt" for c in best[:KEPT]) else None,
        )


def _is_time(us: float) -> bool:
    return math.isfinite(us) and us > 0
