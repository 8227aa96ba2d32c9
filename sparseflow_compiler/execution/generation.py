"""Run transformers' `generate` over a compiled model, by a decode loop of our own where that can do it."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError, SparseFlowError
from sparseflow.execution.decoding.loop import Decoder, Lower
from sparseflow.execution.decoding.request import Request
from sparseflow.execution.decoding.sampling import Knobs, Sampling
from sparseflow.execution.decoding.slots import KEPT, Slot, Slots
from sparseflow.execution.decoding.state import State
from sparseflow.execution.decoding.step import Step
from sparseflow.execution.inner import Execution
from sparseflow.execution.routing import compiled_forward, with_compiled
from sparseflow.integrations.transformers.argument_names import returned_cache, with_cache
from sparseflow.integrations.transformers.decoding import Sampled, replace_sampling
from sparseflow.integrations.transformers.encoders import encoder_path
from sparseflow.integrations.transformers.static_caches import (
    rewind,
    static_cache,
    supply_static_caches,
    whole_cache,
    why_not_whole,
)
from sparseflow.runtime.calling.cache_names import CACHE_NAMES
from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, StaticCache

STEP = 128
"""Static caches that transformers' loop asks for hold a multiple of this many tokens."""

LEAST, DOUBLED_TO = 256, 4096
"""Our caches hold so many tokens or twice, four times … as many, and beyond the second a multiple of it: each
length is a program of its own, and a conversation that grows should not meet a new one every few answers."""


class Generator:
    """Run a model's `generate` with a compiled forward.

    Greedy decoding and sampling run in a loop of our own, over a static cache that holds every token. What it
    can't do runs in transformers' loop. Static caches are reused, so that programs and CUDA graphs made for
    them serve later calls.

    Args:
        model: a transformers model with a language-model head.
        part: compiles another function of the model, given a name for it.
        forward: of the compiled model.
        lower: gives the graph that serves a call of it; None leaves the loop to transformers.
        execution: how graphs run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        part: Callable[[str, Callable[..., object]], Callable[..., object]],
        forward: Callable[..., object],
        lower: Lower | None,
        execution: Execution,
    ) -> None:
        self._model, self._part, self._forward = model, part, forward
        self._free: list[tuple[int, int, StaticCache]] = []
        self._slots = Slots()
        self._lock = threading.Lock()
        self._decoder = (
            None
            if lower is None
            else Decoder(forward, lower, execution, lambda cache: with_cache(model, cache))
        )
        self._refusal: str | None = None
        self.notes: dict[str, str] = {} if self._decoder is None else self._decoder.notes

    def generate(self, *args: object, **kwargs: object) -> object:
        """Run the model's `generate`.

        Raises:
            ArgumentError: the model has no `generate`.
        """
        if not hasattr(self._model, "generate"):
            raise ArgumentError(
                f"{type(self._model).__name__}.generate",
                "only transformers models with a language-model head generate",
                "compile such a model, or call the compiled model directly",
            )
        # transformers would torch.compile the already compiled forward.
        kwargs.setdefault("disable_compile", True)
        lent: list[tuple[int, int, StaticCache]] = []
        own = not any(kwargs.get(name) is not None for name in CACHE_NAMES)
        result = self._routed(lent, own=own).generate(*args, **kwargs)
        given_away = returned_cache(result)
        with self._lock:
            self._free += [entry for entry in lent if entry[2] is not given_away]
            del self._free[:-KEPT]
        self._slots.drop(given_away)
        return result

    def forget(self) -> None:
        """Forget what was made for programs that the model has forgotten."""
        if self._decoder is not None:
            self._decoder.forget()
        self._slots.clear()
        self._refusal = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self._model)

    def again(self, context: int) -> Step:
        """Return the step that decoded last, to be measured: its next token is the one after so many.

        Raises:
            ArgumentError: our loop hasn't decoded yet.
        """
        slot, state, step = self._last()
        rewind(slot.cache, context)
        state.count.fill_(context + 1)
        return step

    def cache_bytes(self, context: int) -> int:
        """Bytes of so many tokens in the cache that decoded last.

        Raises:
            ArgumentError: our loop hasn't decoded yet.
        """
        slot, _, _ = self._last()
        whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in slot.cache.layers)
        return int(whole * context // slot.length)

    def _last(self) -> tuple[Slot, State, Step]:
        if self._decoder is None or self._decoder.last is None:
            name, loop = type(self._model).__name__, self.notes.get("loop", "nothing was generated")
            raise ArgumentError(f"{name}.generate", f"no step of ours ran: {loop}", "generate first")
        return self._decoder.last

    def _routed(self, lent: list[tuple[int, int, StaticCache]], *, own: bool) -> PreTrainedModel:
        """Return a shallow copy of the model with the compiled forward, our loop and kept static caches."""
        routed = copy.copy(self._model)

        def lend(batch: int, length: int) -> object:
            entry = self._cache(batch, length)
            lent.append(entry)
            return entry[2]

        # transformers reads the signature to decide which inputs to prepare: it is the original's.
        routed.forward = compiled_forward(self._model, self._forward)
        self._route_encoder(routed)
        supply_static_caches(routed, lend)
        if self._decoder is not None and own:
            replace_sampling(routed, functools.partial(self._decode, self._decoder))
        else:
            self._note("transformers", "the call brings a cache of its own")
        return routed

    def _decode(self, decoder: Decoder, sampled: Sampled | str) -> tuple[Tensor, object] | None:
        """Decode to tokens and a cache, or note why transformers has to."""
        if self._refusal is None:
            self._refusal = why_not_whole(self._model)
        if reason := sampled if isinstance(sampled, str) else self._refusal:
            self._note("transformers", reason)
            return None
        assert isinstance(sampled, Sampled)
        request = request_of(sampled)
        slot = self._slot(request.ids.shape[0], request.max_length)
        try:
            ready = decoder.prepare(request, slot)
        except SparseFlowError as error:
            self._refusal = f"a static cache can't be compiled: {error}"
            self._note("transformers", self._refusal)
            return None
        result = decoder.decode(ready)
        self._note("sparseflow", "")
        self._slots.keep(slot)
        return result, slot.cache

    def _note(self, loop: str, reason: str) -> None:
        """Note for the report which loop ran last, and why."""
        self.notes["loop"] = f"{loop}: {reason}" if reason else loop

    def _route_encoder(self, routed: PreTrainedModel) -> None:
        """Compile the encoder of an encoder-decoder too, which `generate` calls directly."""
        if path := encoder_path(self._model):
            with_compiled(routed, path, self._part(path, self._model.get_submodule(path).forward))

    def _slot(self, batch: int, length: int) -> Slot:
        """Return a slot for a batch size and at least a length, emptied."""
        made = rounded_length(length)
        return self._slots.take(batch, length, made, lambda: whole_cache(self._model, made, batch))

    def _cache(self, batch: int, length: int) -> tuple[int, int, StaticCache]:
        """Return the shortest free static cache for a batch size and at least a length, emptied."""
        with self._lock:
            fitting = [entry for entry in self._free if entry[0] == batch and entry[1] >= length]
            found = min(fitting, key=lambda entry: entry[1], default=None)
            self._free = [entry for entry in self._free if entry is not found]
        if found is not None:
            found[2].reset()
            return found
        rounded = -(-length // STEP) * STEP
        return batch, rounded, static_cache(self._model, rounded, batch)


def rounded_length(length: int) -> int:
    """Tokens that a cache made for at least so many holds."""
    if length > DOUBLED_TO:
        return -(-length // DOUBLED_TO) * DOUBLED_TO
    return max(LEAST, 1 << (length - 1).bit_length())


def request_of(sampled: Sampled) -> Request:
    """Return what transformers' loop was asked for, in terms of ours."""
    top_p = sampled.top_p is not None and sampled.top_p < 1
    penalizes = sampled.penalty is not None
    return Request(
        ids=sampled.ids,
        mask=sampled.mask,
        positions=sampled.positions,
        max_length=sampled.max_length,
        sampling=Sampling(sampled.draws, sampled.top_k, top_p, penalizes, waits=sampled.least > 0),
        knobs=Knobs(sampled.temperature, sampled.top_p or 1.0, sampled.penalty or 1.0, sampled.least),
        eos=sampled.eos,
        pad=sampled.pad,
        ignored=sampled.ignored,
        criteria=sampled.criteria,
        streamer=sampled.streamer,
        chunk=sampled.chunk,
        options=sampled.options,
    )
