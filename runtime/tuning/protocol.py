"""The messages between the tuner and the measuring process: JSON, one a line.

The tuner requests one point after the other. The child announces each step before it begins, so that the
tuner knows what ended the child. The tuner checks what the child reports; this module checks only the form.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from sparseflow.runtime.kernels import sparse_kernels
from sparseflow.runtime.tuning.point import Candidate, Effort

Key = tuple[str, int, int]  # a kernel, its algorithm and its split-k

PLANS = "building plans"


@dataclasses.dataclass(frozen=True)
class Request:
    """The request to measure a point.

    Attributes:
        dtype: torch's name of the dtype of x and W.
        n: out features.
        k: in features.
        m: rows of x.
        skip: candidates that must not run.
        known: candidates that an earlier child checked and timed at this point; only the best of them are
            measured again.
        then: the M of the next request with the same weight, whose plans can be built meanwhile.
        together: build all plans at once beforehand; otherwise, build each when its candidate is announced.
        effort: ``"quick"`` runs fewer rounds and doesn't vary split-k.
        only: the candidates to try; empty for all.
        kernels: the kernels whose candidates to try; all if it is empty, or none of them can run the point.
        pattern: the pattern of W.
    """

    dtype: str
    n: int
    k: int
    m: int
    skip: tuple[Key, ...] = ()
    known: tuple[Candidate, ...] = ()
    then: int | None = None
    together: bool = True
    effort: Effort = "full"
    only: tuple[Key, ...] = ()
    kernels: tuple[str, ...] = ()
    pattern: str = "2:4"

    def replace(self, **changes: Any) -> Request:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def encode(self) -> str:
        """Return the request as a line."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def decode(cls, line: str) -> Request:
        """Parse a line from `encode`."""
        fields = json.loads(line)
        for name in ("skip", "only"):
            fields[name] = tuple(
                (backend, algorithm, split_k) for backend, algorithm, split_k in fields[name]
            )
        fields["kernels"] = tuple(fields["kernels"])
        fields["known"] = tuple(Candidate.from_dict(entry) for entry in fields["known"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Ready:
    """The child has loaded this version of cuSPARSELt and waits for a request."""

    cusparselt: str


@dataclasses.dataclass(frozen=True)
class Doing:
    """The child begins a step other than a candidate: ``PLANS``, or a text for errors."""

    what: str


@dataclasses.dataclass(frozen=True)
class Count:
    """The number of candidates of each kernel for the product; the ids of candidates begin at 0."""

    candidates: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Trying:
    """The child is about to run a candidate."""

    backend: str
    algorithm: int
    split_k: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """A candidate's first, rough time."""

    backend: str
    algorithm: int
    split_k: int
    us: float
    rel_err: float


@dataclasses.dataclass(frozen=True)
class Failed:
    """A candidate can't be used."""

    backend: str
    algorithm: int
    split_k: int
    why: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """The point can't be measured at all."""

    why: str


@dataclasses.dataclass(frozen=True)
class Done:
    """The point's final times, measured in turns; candidates in any order."""

    dense_us: float
    unpacked_us: float
    dense_bf16_us: float | None
    candidates: tuple[Measured, ...]
    unscaled_us: float | None = None


Message = Ready | Doing | Count | Trying | Measured | Failed | Refused | Done
_KINDS: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Ready, Doing, Count, Trying, Measured, Failed, Refused, Done)
}
_TEXT_LIMIT = 500


def encode(message: Message) -> str:
    """Return a message as a line."""
    return json.dumps({"say": type(message).__name__.lower(), **dataclasses.asdict(message)}) + "\n"


def decode(line: bytes) -> Message | None:
    """Parse a message from a line; return None if the line holds none.

    A time or error that isn't a number becomes NaN, so that a candidate with an impossible result is recorded
    as failed instead of being ignored.
    """
    try:
        fields = json.loads(line)
        message: Message = _build(_KINDS[fields.pop("say")], fields)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return message


def _build(kind: type, fields: Mapping[str, Any]) -> Any:
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if set(fields) != set(known):
        raise ValueError(f"{kind.__name__} has the fields {', '.join(known)}")
    return kind(**{name: _READ[known[name]](name, fields[name]) for name in known})


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or value < (-1 if name == "split_k" else 0):
        raise ValueError(f"{name} is {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}")
    return value[:_TEXT_LIMIT]


def _counts(name: str, value: Any) -> Mapping[str, int]:
    known = {kernel.name for kernel in sparse_kernels("cuda")}
    if not isinstance(value, dict) or not set(value) <= known:
        raise ValueError(f"{name} is {value!r}")
    return {kernel: _whole(name, count) for kernel, count in value.items()}


_READ: dict[str, Callable[[str, Any], Any]] = {
    "Mapping[str, int]": _counts,
    "int": _whole,
    "float": _number,
    "float | None": lambda name, value: None if value is None else _number(name, value),
    "str": _text,
    "tuple[Measured, ...]": lambda name, value: tuple(_build(Measured, entry) for entry in value),
}
