"""An MLP over weights on two tiers."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime.contextual.predictor import Predictor
from sparseflow.runtime.contextual.tiered.cache import DifferentialCache, listed
from sparseflow.runtime.contextual.tiered.source import Source

_cuda: Any = torch.cuda  # torch's own annotations are incomplete here


@functools.cache
def _worker() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, "sparseflow-prefetch")


class TieredMLP:
    """Computes over the neurons that a predictor selects; the cache fetches those that it lacks.

    Where more are selected than the cache has slots, the rest are read in place from the slower tier, or
    where that can't be, brought in and computed by one cacheful after the other.

    Args:
        source: the slower tier, with all weights.
        predictor: on the fast tier's device.
        capacity: bytes of the cache on the fast tier.

    Attributes:
        cache: the fast tier.

    Raises:
        ArgumentError: what `DifferentialCache` raises.
    """

    def __init__(self, source: Source, predictor: Predictor, capacity: int) -> None:
        device = predictor.a.device
        self.cache = DifferentialCache(source, capacity, device)
        self._predictor, self._in_place = predictor, source.in_place
        self._stream = _cuda.Stream(device) if device.type == "cuda" else None
        self._pending: Any = None  # a future, or an event of the stream
        self._unbiased = dataclasses.replace(self.cache.weights, down_bias=None)
        if self._in_place is not None:
            self._in_place = dataclasses.replace(self._in_place, down_bias=None)

    def prefetch(self, x: Tensor) -> None:
        """Begin to fetch what x ``[…, H]`` would need, such as the input of the layer before this one.

        It runs beside what the caller does next: on a stream of its own, or on a CPU in a thread, where x
        must not be written meanwhile. The next call waits for it, and raises what it raised.
        """
        self._settle()
        if self._stream is None:
            self._pending = _worker().submit(self._prepare, x)
            return
        self._stream.wait_stream(_cuda.current_stream())
        with _cuda.stream(self._stream):
            self._prepare(x)
        x.record_stream(self._stream)
        self._pending = self._stream.record_event()

    def __call__(self, x: Tensor) -> Tensor:
        """The MLP's result ``[…, H]`` in the dtype of x.

        Raises:
            TierError: the slower tier can't be read. The cache stays whole, and another call may try again.
        """
        self._settle()
        return self.over(x, self.wanted(x))

    def wanted(self, x: Tensor) -> Tensor:
        """Which neurons the predictor selects for the rows of x together: ``[I]`` bool."""
        neurons, count = self._predictor.select(x)
        read = torch.arange(self.cache.neurons, device=neurons.device) < count
        mask = torch.zeros(self.cache.neurons + 1, dtype=torch.bool, device=neurons.device)
        # By a fill: an assignment copies its True from the host, which a graph can't capture.
        return mask.index_fill_(0, torch.where(read, neurons, self.cache.neurons).long(), True)[:-1]

    def over(self, x: Tensor, wanted: Tensor) -> Tensor:
        """The result over a given set of neurons, ``[I]`` bool, instead of the predictor's.

        Raises:
            ArgumentError: what `DifferentialCache.update` raises. TierError: as for a call.
        """
        self.cache.update(wanted)
        y = self.cache.weights.run(x, *self.cache.listed(wanted))
        if self.cache.slots == self.cache.neurons:
            return y
        rest = self.cache.absent(wanted)
        if self._in_place is None:
            return self._by_cachefuls(x, y, rest)
        # Without asking how many are left, which a GPU would have to be waited for.
        return y + self._in_place.run(x, *listed(rest))

    def _by_cachefuls(self, x: Tensor, y: Tensor, rest: Tensor) -> Tensor:
        while rest.any():
            self.cache.update(rest)
            y = y + self._unbiased.run(x, *self.cache.listed(rest))
            rest = self.cache.absent(rest)
        return y

    def _prepare(self, x: Tensor) -> None:
        with torch.no_grad():
            self.cache.update(self.wanted(x))

    def _settle(self) -> None:
        """Wait for what was begun: a stream waits for its event, a thread's result is asked for."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if self._stream is None:
            pending.result()
        else:
            _cuda.current_stream().wait_event(pending)
