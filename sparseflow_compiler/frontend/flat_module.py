"""The model as a module that takes and returns only tensors, as torch.export handles best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseflow.frontend.given import Given
from sparseflow.frontend.gradient_reads import GradientReads
from sparseflow.frontend.layouts import LayoutWatch
from sparseflow.frontend.module_state import Buffers
from sparseflow.frontend.repeated_operators import repeated_operators
from sparseflow.frontend.state.watch import Watch
from sparseflow.runtime.calling.call_names import leaf_names
from sparseflow.runtime.calling.carried import STATE, State
from sparseflow.runtime.calling.signature import ObjectUpdate, Outputs
from sparseflow.runtime.calling.structure import Constant, Container, Decoder, Encoder, Flat

PREFIX = "model."
"""The prefix that wrapping adds to the names of parameters and modules."""


class FlatModule(nn.Module):
    """Call a copy of a model with the tensors of `call` replaced, and record the output's structure."""

    def __init__(self, watch: Watch, call: Flat, gradients: GradientReads) -> None:
        super().__init__()
        self.model = watch.model
        self.training = watch.model.training
        self.call = call
        self._record = _Record(watch, call, gradients)

    @property
    def outputs(self) -> Outputs:
        """The outputs and changes of the last call."""
        assert self._record.outputs is not None, "the model was not called"
        return self._record.outputs

    @property
    def counters(self) -> set[tuple[type, str]]:
        """Attributes of the call's objects that are counters of the model."""
        return self._record.counters

    @property
    def layouts_matter(self) -> bool:
        """Whether the result may depend on the inputs' strides."""
        return self._record.layouts.matter

    def forward(self, *leaves: object) -> tuple[object, ...]:
        """Run the model; return the new leaves of its output, then those of objects that it changed."""
        decoder = Decoder(leaves)
        args, kwargs = decoder.unflatten(self.call.structure)
        objects = decoder.objects
        before = [_state(value, objects) for value in objects]
        self._record.layouts.begin(leaves)
        given = Given(args, {k: v for k, v in kwargs.items() if k != STATE}, objects)
        try:
            state = cast("State | None", kwargs.pop(STATE, None))
            with self._record.watch.run(state), self._record.layouts:
                buffers = Buffers.of(self.model)
                watching = self._record.gradients.watching(self._tensors(leaves))
                with repeated_operators(FlatModule.forward.__code__), watching:
                    output = self.model(*args, **kwargs)
                self._record.gradients.require_no_history(self.model.named_buffers())
                buffers.write_assigned()
            self._record.gradients.require_no_history(_kept(state))
        except Exception as error:
            raise ModelFailure from error
        given.require_unchanged(self.model)
        encoder = Encoder(objects=list(objects), given=leaves)
        structure = encoder.flatten(output)
        returned = Encoder(objects=list(objects))
        returned.flatten(output)
        self._record.layouts.end(returned.leaves)
        updates = []
        for ordinal, value in enumerate(objects):
            after = _state(value, objects)
            if not _same(before[ordinal], after):
                updates.append(ObjectUpdate(ordinal, encoder.encode_state(value)))
                self._record.counters |= _changed_numbers(before[ordinal][0], after[0])
        self._record.outputs = Outputs(structure, tuple(updates))
        return tuple(encoder.leaves)

    def _tensors(self, leaves: Sequence[object]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the trace that are the caller's, named as errors do."""
        yield from self.model.named_parameters(type(self.model).__name__)
        for name, leaf in zip(self._record.names, leaves, strict=True):
            if isinstance(leaf, Tensor):
                yield f"{type(self.model).__name__}, argument {name!r}", leaf


class ModelFailure(Exception):  # noqa: N818  # the cause is the error
    """The model itself raised. torch.export prints the partial graph for any other exception."""

    @property
    def partial_fx_graph(self) -> str:
        """The attribute that torch.export sets and prints; absent here."""
        raise AttributeError

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: str) -> None:
        """Ignore the graph."""


class _Record:
    """Hide state from torch.export, which would take it for changed module attributes."""

    def __init__(self, watch: Watch, call: Flat, gradients: GradientReads) -> None:
        self.watch, self.gradients = watch, gradients
        self.names = tuple(leaf_names(call))
        self.layouts = LayoutWatch(call.leaves)
        self.outputs: Outputs | None = None
        self.counters: set[tuple[type, str]] = set()


def _kept(state: State | None) -> Iterator[tuple[str, object]]:
    """Yield what the attributes hold that a call passes on, by their paths."""
    for path, value in vars(state).items() if state is not None else ():
        yield from ((path, leaf) for leaf in pytree.tree_leaves(value))


def _state(value: object, objects: list[object]) -> tuple[Container, list[object]]:
    """Return the attributes of one object; other objects of the call are compared by identity."""
    encoder = Encoder(objects=list(objects))
    return encoder.encode_state(value), encoder.leaves


def _changed_numbers(before: Container, after: Container) -> set[tuple[type, str]]:
    """Return the attributes whose int changed or became dependent on shapes."""
    new = dict(zip(after.keys, after.children, strict=True))
    return {
        (before.kind, str(name))
        for name, old in zip(before.keys, before.children, strict=True)
        if isinstance(old, Constant) and old.kind is int and new.get(name) != old
    }


def _same(one: tuple[Container, list[object]], other: tuple[Container, list[object]]) -> bool:
    (structure, leaves), (other_structure, other_leaves) = one, other
    return structure == other_structure and all(a is b for a, b in zip(leaves, other_leaves, strict=True))
