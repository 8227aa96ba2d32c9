"""Detect changes of a call's lists and dicts, which a captured program can't reproduce."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch import nn

from sparseflow.errors import CaptureError
from sparseflow.runtime.calling.structure import Encoder, Structure

_Content = tuple[Structure, list[object]]
"""A value taken apart: all but its tensors, and those."""


class Given:
    """A snapshot of a call's arguments before the model runs.

    Tensors that it writes and objects that it changes, such as caches, are reproduced by the program; what it
    adds to a list or dict, or removes from it, isn't.

    Args:
        args: the positional ones.
        kwargs: those by keyword.
        objects: those among them that are flattened by their attributes.
    """

    def __init__(
        self, args: Sequence[object], kwargs: Mapping[str, object], objects: Sequence[object]
    ) -> None:
        self._args, self._kwargs, self._objects = args, kwargs, objects
        self._before = self._contents()

    def require_unchanged(self, model: nn.Module) -> None:
        """Check that every list and dict is unchanged.

        Raises:
            CaptureError: one changed; the error names the argument.
        """
        for (name, before), (_, after) in zip(self._before, self._contents(), strict=True):
            if not _same(before, after):
                raise CaptureError(
                    f"{type(model).__name__}, argument {self._name(model, name)}",
                    "forward changes a list or dict of the caller, which a captured program can't do",
                    "let forward change a copy and return it",
                )

    def _contents(self) -> list[tuple[int | str, _Content]]:
        names: list[int | str] = [*range(len(self._args)), *self._kwargs]
        values = [*self._args, *self._kwargs.values()]
        return [(name, self._content(value)) for name, value in zip(names, values, strict=True)]

    def _content(self, value: object) -> _Content:
        encoder = Encoder(objects=list(self._objects))
        return encoder.flatten(value), encoder.leaves

    def _name(self, model: nn.Module, name: int | str) -> str:
        names = list(inspect.signature(model.forward).parameters)
        return repr(names[name] if isinstance(name, int) and name < len(names) else name)


def _same(one: _Content, other: _Content) -> bool:
    (structure, leaves), (other_structure, other_leaves) = one, other
    return structure == other_structure and all(a is b for a, b in zip(leaves, other_leaves, strict=True))
