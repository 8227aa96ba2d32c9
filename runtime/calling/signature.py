"""A captured program's arguments and results in terms of the user's call."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sparseflow.runtime.calling.structure import Container, Structure


class ResultKind(enum.Enum):
    """What a result of `@main` is used for."""

    BUFFER = "the new value of a buffer of the model"
    INPUT = "the new value of an input tensor, written in place"
    OUTPUT = "a leaf of what the user gets, or of the new state of an object that the call passed"


@dataclass(frozen=True)
class Result:
    """One result of `@main`.

    Attributes:
        kind: what it is used for.
        target: the name of the buffer, or the index of the input leaf; None for an output.
    """

    kind: ResultKind
    target: str | int | None = None


@dataclass(frozen=True)
class ObjectUpdate:
    """The final state of an object passed to the model, such as a cache.

    Attributes:
        ordinal: index among the call's objects.
        state: its attributes.
    """

    ordinal: int
    state: Container


@dataclass(frozen=True)
class Outputs:
    """How the results of kind OUTPUT, in order, form the user's output.

    Attributes:
        structure: the model's output; aliases in it refer to objects of the call.
        updates: the objects of the call that the model changed; their leaves follow those of the output.
    """

    structure: Structure
    updates: tuple[ObjectUpdate, ...] = ()


@dataclass(frozen=True)
class Signature:
    """How the arguments and results of `@main` map to a call of the model.

    Attributes:
        inputs: the structure of the call; its leaves are the arguments of `@main`, in order.
        results: the use of each result of `@main`, in order.
        outputs: how the user's output is built.
    """

    inputs: Structure
    results: tuple[Result, ...]
    outputs: Outputs
