"""Carried attributes: those that forward changes, which a program takes and returns beside its arguments."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

STATE = "state of the model"
"""The keyword under which a call of a program passes the values; no parameter can have that name."""


class Missing(enum.Enum):
    """Placeholder for an attribute that the module doesn't have yet."""

    MISSING = enum.auto()


class State:
    """The values of carried attributes, as attributes of this object."""


@dataclass(frozen=True)
class Place:
    """A carried attribute.

    Attributes:
        module: the module that has it.
        name: of the attribute.
        path: its path from the model, as a user would write it.
        in_place: whether forward mutates the container instead of assigning another.
    """

    module: nn.Module
    name: str
    path: str
    in_place: bool = False


class Carried:
    """The carried attributes of one model.

    Attributes:
        places: the attributes; capturing further programs may add some.
    """

    def __init__(self, places: Sequence[Place] = ()) -> None:
        self.places = tuple(places)

    def read(self) -> State:
        """Return the attributes' current values."""
        state = State()
        for place in self.places:
            vars(state)[place.path] = vars(place.module).get(place.name, Missing.MISSING)
        return state

    def state(self) -> State | None:
        """Return the state that a call passes beside its arguments, or None if nothing is carried."""
        return self.read() if self.places else None

    def add(self, places: Sequence[Place]) -> None:
        """Carry more attributes."""
        known = {(id(place.module), place.name): place for place in self.places}
        known.update({(id(place.module), place.name): place for place in places})
        self.places = tuple(known.values())

    def write(self, state: State) -> None:
        """Give the attributes their values."""
        for place in self.places:
            new, attributes = vars(state)[place.path], vars(place.module)
            old = attributes.get(place.name, Missing.MISSING)
            if new is old:
                continue
            if new is Missing.MISSING:
                del attributes[place.name]
            elif not (place.in_place and _refill(old, new)):
                attributes[place.name] = new


def _refill(old: object, new: object) -> bool:
    """Replace a container's contents by another's; return False if it isn't a container."""
    if type(old) is not type(new):
        return False
    if isinstance(old, list) and isinstance(new, list):
        old[:] = new
    elif isinstance(old, dict) and isinstance(new, dict):
        old.clear()
        old.update(new)
    else:
        return False
    return True
