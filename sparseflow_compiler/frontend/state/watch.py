"""Run a copy of a model from the carried attributes, and undo its other changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from sparseflow.errors import CaptureError
from sparseflow.frontend.state.changes import BACKEND, places_of_changes
from sparseflow.frontend.state.clone import Clone
from sparseflow.frontend.state.contents import copied
from sparseflow.frontend.state.plain_tensors import PlainTensors
from sparseflow.frontend.state.surroundings import STREAMS_OF_LIBRARIES, Surroundings
from sparseflow.runtime.calling.carried import Carried, Place, State


class Watch:
    """Watch what forward changes in a copy of a model and outside it.

    Args:
        model: the user's; it is left alone.
        places: the attributes of it that calls pass and return.

    Attributes:
        model: the copy, to be traced.
        found: the attributes that the last run changed.
    """

    def __init__(self, model: nn.Module, places: Sequence[Place] = ()) -> None:
        self._clone = Clone(model)
        self._surroundings = Surroundings(self._clone)
        self._carried = Carried(
            [Place(self._clone.copy_of(p.module), p.name, p.path, p.in_place) for p in places]
        )
        self.model = self._clone.model
        self.found: list[Place] = []

    @contextmanager
    def run(self, state: State | None) -> Iterator[None]:
        """Let the model run in a `with` block.

        Args:
            state: the values of the carried attributes, which are updated after the run.

        Raises:
            CaptureError: the model changed something that a program can't carry from call to call.
        """
        if state is not None:
            self._carried.write(state)
        self._clone.snapshot()
        self._surroundings.snapshot()
        plain = PlainTensors(self.model)
        changed: list[str] = []
        try:
            yield
            self.found = places_of_changes(self._clone)
            if state is not None:
                # Copies, because the containers themselves are restored afterwards.
                read = vars(self._carried.read())
                vars(state).update({path: copied(value) for path, value in read.items()})
        finally:
            plain.restore()
            changed += self._surroundings.restore()
            self._clone.restore()
        if drawn := STREAMS_OF_LIBRARIES.keys() & set(changed):
            raise CaptureError(
                min(drawn),
                "forward draws a number there, and a captured program would have the same in each call",
                f"draw with torch.rand and its like, or use {BACKEND}",
            )
        if changed:
            raise CaptureError(
                changed[0],
                "forward changes this, which is outside the model; a captured program can't do that",
                f"keep it in a buffer or a plain attribute of a module, or use {BACKEND}",
            )
