"""The model as a module that takes and returns nothing but tensors: what torch.export handles best."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparseflow.frontend.given import Given
from sparseflow.frontend.layouts import LayoutWatch
from sparseflow.frontend.module_state import Buffers
from sparseflow.frontend.state.watch import Watch
from sparseflow.runtime.calling.carried import STATE
from sparseflow.runtime.calling.signature import ObjectUpdate, Outputs
from sparseflow.runtime.calling.structure import Constant, Container, Decoder, Encoder, Flat

PREFIX = "model."
"""What the names of parameters and modules gain by the wrapping."""


class FlatModule(nn.Module):
    """Calls a copy of a model with the tensors of `call` replaced; records the structure of the output."""

    def __init__(self, watch: Watch, call: Flat) -> None:
        super().__init__()
        self.model = watch.model
        self.training = watch.model.training
        self.call = call
        self._record = _Record(watch, call)

    @property
    def outputs(self) -> Outputs:
        """What the last call returned and changed."""
        assert self._record.outputs is not None, "the model was not called"
        return self._record.outputs

    @property
    def counters(self) -> set[tuple[type, str]]:
        """Attributes of the call's objects in which the model counts."""
        return self._record.counters

    @property
    def layouts_matter(self) -> bool:
        """Whether the model may compute something else for inputs of other strides."""
        return self._record.layouts.matter

    def forward(self, *leaves: object) -> tuple[Any, ...]:
        """Run the model; returns the new leaves of its output, then those of the objects that it changed."""
        decoder = Decoder(leaves)
        args, kwargs = decoder.unflatten(self.call.structure)
        objects = decoder.objects
        before = [_state(value, objects) for value in objects]
        given = Given(args, {k: v for k, v in kwargs.items() if k != STATE}, objects)
        try:
            with self._record.watch.run(kwargs.pop(STATE, None)), self._record.layouts:
                buffers = Buffers.of(self.model)
                output = self.model(*args, **kwargs)
                buffers.write_assigned()
        except Exception as error:
            raise ModelFailure from error
        given.require_unchanged(self.model)
        encoder = Encoder(objects=list(objects), given=leaves)
        structure = encoder.flatten(output)
        updates = []
        for ordinal, value in enumerate(objects):
            after = _state(value, objects)
            if not _same(before[ordinal], after):
                updates.append(ObjectUpdate(ordinal, encoder.encode_state(value)))
                self._record.counters |= _changed_numbers(before[ordinal][0], after[0])
        self._record.outputs = Outputs(structure, tuple(updates))
        return tuple(encoder.leaves)


class ModelFailure(Exception):  # noqa: N818  # the cause is the error
    """The model itself raised; torch.export prints the graph so far for any other exception."""

    @property
    def partial_fx_graph(self) -> str:
        """What torch.export attaches and prints: not there."""
        raise AttributeError

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: str) -> None:
        """Ignored."""


class _Record:
    """Holds what torch.export must not see as a change of the module's attributes."""

    def __init__(self, watch: Watch, call: Flat) -> None:
        self.watch = watch
        self.layouts = LayoutWatch(call.leaves)
        self.outputs: Outputs | None = None
        self.counters: set[tuple[type, str]] = set()


def _state(value: object, objects: list[object]) -> tuple[Container, list[object]]:
    """The attributes of one object; other objects of the call count as they are."""
    encoder = Encoder(objects=list(objects))
    return encoder.encode_state(value), encoder.leaves


def _changed_numbers(before: Container, after: Container) -> set[tuple[type, str]]:
    """The attributes that were an int and are another now, or one that depends on shapes."""
    new = dict(zip(after.keys, after.children, strict=True))
    return {
        (before.kind, name)
        for name, old in zip(before.keys, before.children, strict=True)
        if isinstance(old, Constant) and old.kind is int and new.get(name) != old
    }


def _same(one: tuple[Container, list[object]], other: tuple[Container, list[object]]) -> bool:
    (structure, leaves), (other_structure, other_leaves) = one, other
    return structure == other_structure and all(a is b for a, b in zip(leaves, other_leaves, strict=True))
