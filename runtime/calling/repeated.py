"""Serve a call like one that was served before, without taking it apart again.

Programs whose forward asked whether gradients are on are not served so: their answer depends on more.

A call is like an earlier one if it passes its arguments in the same way, the same atoms, tensors of the same
layout, and the same objects, such as a cache, with the same contents by identity. Then it has the same
program, the same structure, and its tensors are at the same places. What isn't known to be alike goes the
whole way.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor
from torch.utils import _pytree as pytree

from sparseflow.runtime.calling.ambient import Ambient
from sparseflow.runtime.calling.cache_names import is_cache
from sparseflow.runtime.calling.executable import Executable, Replay
from sparseflow.runtime.calling.held_contents import Contents, TensorLayout, UnrepeatableError
from sparseflow.runtime.calling.output_template import Sources, UnknownOutputError, output_template
from sparseflow.runtime.calling.overlap import Span
from sparseflow.runtime.calling.structure import ATOMS, Flat

MOST = 8
"""Calls that are kept for each way of passing the arguments."""

_FEW = 8
"""Calls that are tried at once; later ones are tried ever more rarely."""


class Written:
    """The memory that a program writes, in order, to tell whether other tensors meet it.

    Args:
        tensors: that it writes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        spans = sorted(Span.of(tensor, i) for i, tensor in enumerate(tensors))
        self._starts = [span.start for span in spans if span.end > span.start]
        self._ends = list(itertools.accumulate((span.end for span in spans if span.end > span.start), max))

    def meets(self, tensor: Tensor) -> bool:
        """Return whether the memory of a tensor may be among it."""
        if not self._starts:
            return False
        span = Span.of(tensor, 0)
        place = bisect.bisect_left(self._starts, span.end) - 1
        return place >= 0 and self._ends[place] > span.start and span.end > span.start


class RepeatedCall:
    """A call that was served, and what a later one must have in common with it.

    Args:
        values: its arguments, in the order in which it passed them.
        call: the same, taken apart.
        executable: what served it.
        results: of the program.
        output: of the model.

    Raises:
        UnrepeatableError: later calls have to go the whole way.
    """

    def __init__(
        self,
        values: Sequence[object],
        call: Flat,
        executable: Executable,
        results: Sequence[object],
        output: object,
    ) -> None:
        if not executable.only_returns:
            raise UnrepeatableError
        self.executable, self._ambient = executable, Ambient.of_casts()
        self._tensors = [TensorLayout.of(v, i) for i, v in enumerate(values) if isinstance(v, Tensor)]
        self._atoms = [(i, v) for i, v in enumerate(values) if type(v) in ATOMS]
        known = {t.place for t in self._tensors} | {i for i, _ in self._atoms}
        self._roots = [(i, _weak(v)) for i, v in enumerate(values) if i not in known]
        self._contents = Contents([values[i] for i, _ in self._roots])
        self._inside = frozenset(map(id, self._contents.tensors))
        self._outside = self._find_outside(values, call)
        self._leaves = list(call.leaves)
        for place, _ in self._outside:
            self._leaves[place] = None
        self._written = Written([*executable.written(call.leaves)])
        try:
            self._build = output_template(output, Sources(results, values, call.leaves))
        except UnknownOutputError:
            raise UnrepeatableError from None
        self._replay: Replay | None = None
        self._recordings = 0

    def _find_outside(self, values: Sequence[object], call: Flat) -> list[tuple[int, int]]:
        """Return the leaves that arguments are, and which."""
        passed = {id(values[t.place]): t.place for t in self._tensors}
        outside = [(i, passed[id(leaf)]) for i, leaf in enumerate(call.leaves) if id(leaf) in passed]
        # Which tensors are the same is a part of the structure; numbers among the leaves are counters.
        whole = len(outside) == len(self._tensors) and self._inside.isdisjoint(passed)
        whole = whole and len(call.leaves) == len(outside) + len(self._inside)
        if not whole or not self.executable.written_leaves.isdisjoint(i for i, _ in outside):
            raise UnrepeatableError
        return outside

    def when_gone(self, forget: Callable[[weakref.ref[RepeatedCall]], None]) -> None:
        """Call `forget` as soon as an object that the call passed is gone."""
        for _, root in self._roots:
            weakref.finalize(root(), forget, weakref.ref(self)).atexit = False

    def has_objects_of(self, values: Sequence[object]) -> bool:
        """Return whether a call passes the same objects, of which there are some."""
        return bool(self._roots) and all(root() is values[i] for i, root in self._roots)

    def leaves(self, values: Sequence[object]) -> list[object] | None:
        """Return the leaves of a call like this one; None if it isn't known to be one."""
        for place, atom in self._atoms:
            value = values[place]
            if value is not atom and (type(value) is not type(atom) or value != atom):
                return None
        if not all(tensor.fits(values[tensor.place]) for tensor in self._tensors):
            return None
        if not all(root() is values[i] for i, root in self._roots):
            return None
        if Ambient.of_casts() != self._ambient:
            return None
        return self._filled(values) if self._contents.are_as_they_were() else None

    def _filled(self, values: Sequence[object]) -> list[object] | None:
        leaves, passed = self._leaves.copy(), set(self._inside)
        for place, argument in self._outside:
            value = leaves[place] = values[argument]
            passed.add(id(value))
            if self._written.meets(cast(Tensor, value)):
                return None
        return leaves if len(passed) == len(leaves) else None

    def run(self, values: Sequence[object], leaves: Sequence[object]) -> object:
        """Run the program for the leaves of a call like this one, and return the model's output."""
        results = None if self._replay is None else self._replay(leaves)
        if results is None:
            results = self.executable.unguarded(leaves)
            if self._recordings != self.executable.recordings:
                self._recordings = self.executable.recordings
                self._replay = self.executable.replay(leaves)
        return self._build(Sources(results, values, leaves))


class RepeatedCalls:
    """The calls of a model that are repeated; the latest of each way of passing arguments are kept."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], list[RepeatedCall]] = {}
        self._served = 0

    def find(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[RepeatedCall, list[object], list[object]] | None:
        """Return a call like that one, its arguments and its leaves; None if none is known to be like it."""
        key = (len(args), *kwargs)
        known = self._known.get(key)
        if known is None:
            return None
        values = [*args, *kwargs.values()]
        for place, call in enumerate(known):
            leaves = call.leaves(values)
            if leaves is not None:
                if place:
                    self._known[key] = [call, *(other for other in known if other is not call)]
                return call, values, leaves
        return None

    def learn(
        self,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        call: Flat,
        executable: Executable,
        results: Sequence[object],
        output: object,
    ) -> None:
        """Take note of a call that went the whole way, if that may be worth it."""
        self._served += 1
        if self._served > _FEW and self._served & (self._served - 1):
            return
        values = [*args, *kwargs.values()]
        try:
            repeated = RepeatedCall(values, call, executable, results, output)
        except UnrepeatableError:
            return
        key = (len(args), *kwargs)
        # What had other contents won't have them again.
        known = [one for one in self._known.get(key, ()) if not one.has_objects_of(values)]
        self._known[key] = [repeated, *known[: MOST - 1]]
        repeated.when_gone(functools.partial(_forget, weakref.ref(self), key))

    def forget(self, key: tuple[object, ...], call: RepeatedCall) -> None:
        """Let go of a call."""
        self._known[key] = [one for one in self._known.get(key, ()) if one is not call]


def _forget(
    calls: weakref.ref[RepeatedCalls], key: tuple[object, ...], call: weakref.ref[RepeatedCall]
) -> None:
    found, gone = calls(), call()
    if found is not None and gone is not None:
        found.forget(key, gone)


def _weak(value: object) -> weakref.ref[object]:
    """Return a weak reference to an object that is flattened by its attributes.

    Raises:
        UnrepeatableError: it is something else.
    """
    registered = type(value) in pytree.SUPPORTED_NODES and not is_cache(value)
    if registered or isinstance(value, (list, tuple, dict, set)) or callable(value):
        raise UnrepeatableError
    try:
        return weakref.ref(value)
    except TypeError:
        raise UnrepeatableError from None
