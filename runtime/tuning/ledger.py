"""Keep track of a point's candidates while they are measured, over as many child processes as that takes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

from sparseflow.runtime.kernels import find
from sparseflow.runtime.kernels.outputs import output_dtype
from sparseflow.runtime.tuning.point import KEPT, Candidate, Failure, TunedPoint, wrong
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
    """The candidates of one point: measured, failed, and the one that runs now.

    Args:
        request: the point.
        barred: candidates that may not run, and why.
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
    def learnt(self) -> int:
        """Return the number of settled candidates."""
        return len(self._known) + len(self._failed)

    @property
    def nothing_measured(self) -> bool:
        """Return whether no candidate was ever measured."""
        return not self._known

    @property
    def was(self) -> str:
        """What the child was last seen doing, for an error."""
        return f" while {self._doing}" if self._doing else ""

    def begin(self) -> Request:
        """What to ask a child for; it is a new one, or has just finished another point."""
        self.announced, self._doing = None, ""
        skip = tuple(self._failed)
        if self._closed:
            skip = tuple(key for key in self._every() if key not in self._known)
        return dataclasses.replace(
            self._request, skip=skip, known=tuple(self._known.values()), together=self._together
        )

    def build_singly(self) -> bool:
        """Whether the child was lost while building plans together; then they are built one by one."""
        if not self._together or self._doing != PLANS:
            return False
        self._together = False
        return True

    def fail(self, key: Key, why: str) -> None:
        """A candidate is out; the first reason stays."""
        self._known.pop(key, None)
        self._failed.setdefault(key, Failure(*key, why))

    def close(self, why: str) -> None:
        """No candidate is tried any more."""
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
        """Enter what the child says.

        Returns:
            The point, or why there is none; None while it goes on.

        Raises:
            Lost: the child can't be believed, whatever the candidate.
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
        # It stays announced: a child that exits now says that the candidate spoilt its process.
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
            absent = name == "dense_bf16_us" and self._request.dtype != "float8_e4m3fn"
            if us is not None if absent else us is None or not _is_time(us):
                raise Lost(f"reported {us} as {name}")
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
        )


def _is_time(us: float) -> bool:
    return math.isfinite(us) and us > 0
