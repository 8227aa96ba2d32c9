"""Run `generate` of a loaded model without importing transformers, where a call leaves that open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.errors import SparseFlowError
from sparseflow.execution.decoding.loop import Decoder, Lower
from sparseflow.execution.decoding.saved_caches import SavedCache, shortest
from sparseflow.execution.decoding.slots import Slots
from sparseflow.execution.generation import request_of
from sparseflow.execution.inner import Execution
from sparseflow.integrations.transformers.decoding import Sampled
from sparseflow.integrations.transformers.plain_calls import read_plain
from sparseflow.runtime.calling.contract import Contract
from sparseflow.support.documents import Document


class SavedGenerator:
    """Decode with the programs of an artifact, over caches that are made as their contracts describe them.

    Args:
        plain: how the saved model reads plain calls, as `plain_generation` gives it.
        contracts: of the programs.
        device: of the model.
        forward: of the loaded model.
        lower: gives the graph that serves a call of it.
        execution: how graphs run.

    Attributes:
        reason: why transformers has to run the last call; empty if it was run here.
    """

    def __init__(
        self,
        plain: Document,
        contracts: Sequence[Contract],
        device: torch.device,
        forward: Callable[..., Any],
        lower: Lower,
        execution: Execution,
    ) -> None:
        self._plain, self._device = plain, device
        self._caches = [cache for contract in contracts if (cache := SavedCache.of(contract)) is not None]
        self._slots: dict[int, Slots] = {}
        self._decoders = {
            cache.argument: Decoder(forward, lower, execution, _passed_as(cache.argument))
            for cache in self._caches
        }
        self.reason = str(plain["refused"])

    @torch.no_grad()
    def generate(self, *args: object, **kwargs: Any) -> Tensor | None:
        """Return the sequences, int64 `[batch, length]`; None if transformers has to run the call."""
        self.reason = str(self._plain["refused"])
        sampled = self.reason or read_plain(args, kwargs, self._plain["defaults"])
        if isinstance(sampled, str):
            self.reason = sampled
            return None
        cache = shortest(self._caches, sampled.max_length)
        if cache is None or sampled.ids.device != self._device:
            self.reason = "no program takes a static cache of this length on the prompt's device"
            return None
        return self._decode(sampled, cache)

    def _decode(self, sampled: Sampled, cache: SavedCache) -> Tensor | None:
        ids = sampled.ids
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        request = dataclasses.replace(
            request_of(sampled),
            positions=positions if cache.takes_positions else None,
            options=cache.options,
        )
        slots, decoder = self._slots.setdefault(cache.length, Slots()), self._decoders[cache.argument]
        batch = ids.shape[0]
        slot = slots.take(batch, sampled.max_length, cache.length, lambda: cache.make(batch))
        try:
            ready = decoder.prepare(request, slot)
        except SparseFlowError as error:
            self.reason = f"the programs don't serve it: {error}"
            return None
        if sampled.streamer is not None:
            sampled.streamer.put(ids.cpu())
        tokens = decoder.decode(ready)
        slots.keep(slot)
        return tokens


def _passed_as(argument: str) -> Callable[[object], dict[str, object]]:
    return lambda cache: {argument: cache}
