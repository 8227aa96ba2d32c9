"""Measuring points on a GPU, in the child process.

A quick round checks each candidate against the product in float32 and times it roughly. The best ones then
run in turns with the dense product and with decompression, in a rotating order and over weights that rotate
past the cache. Every candidate is announced before it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice, Problem, find, sparse_kernels
from sparseflow.runtime.kernels.cusparselt import CUSPARSELT
from sparseflow.runtime.kernels.outputs import output_dtype
from sparseflow.runtime.tuning import dense_opponents
from sparseflow.runtime.tuning.layers import Layer, inputs, reference
from sparseflow.runtime.tuning.pace import PACES, wanted
from sparseflow.runtime.tuning.point import Candidate, finalists, wrong
from sparseflow.runtime.tuning.protocol import (
    PLANS,
    Count,
    Doing,
    Done,
    Failed,
    Key,
    Measured,
    Message,
    Refused,
    Request,
    Trying,
)
from sparseflow.runtime.tuning.replay import Replay, Spoilt, alive, first_line, in_turns
from sparseflow.runtime.tuning.sweep import format_of

# The least number of rounds at any pace: the first calls of a process load what they need.
FEWEST = 2

# A candidate this much slower than the best so far isn't timed a second time.
HOPELESS = 1.3

Say = Callable[[Message], None]


class Bench:
    """Measures one point after another; keeps the weights and plans of one layer at a time.

    Args:
        say: sends a message to the tuner.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._layer: tuple[tuple[str, int, int, str], Layer] | None = None

    def measure(self, request: Request) -> None:
        """Measure a point; send the result, or why there is none.

        Raises:
            Spoilt: CUDA doesn't work any more in this process.
        """
        try:
            self._say(Doing("making the weights"))
            _Point(request, self._layer_of(request), self._say).measure()
        except RuntimeError as error:
            if not alive():
                raise Spoilt(first_line(error)) from None
            self._say(Refused(first_line(error)))
        # The graphs of this point are gone, but the allocator would keep their memory.
        torch.cuda.empty_cache()

    def _layer_of(self, request: Request) -> Layer:
        name = request.dtype, request.n, request.k, request.pattern
        if self._layer is None or self._layer[0] != name:
            self._layer = None
            # Plans that a graph used are never evicted, so they are dropped after each layer.
            gpu.reset()
            torch.cuda.empty_cache()
            dtype = getattr(torch, request.dtype)
            self._layer = name, Layer.random(request.n, request.k, dtype, request.pattern)
        return self._layer[1]


class _Point:
    def __init__(self, request: Request, layer: Layer, say: Say) -> None:
        self.request, self.layer, self.say = request, layer, say
        self.x = inputs(request.m, request.k, getattr(torch, request.dtype))
        self.expected = reference(self.x, layer.dense[0])
        self.out: torch.dtype = getattr(torch, output_dtype(request.dtype))
        self.pool = torch.cuda.graph_pool_handle()
        self.known: dict[Key, Candidate] = {c.key: c for c in request.known}
        self.sides: dict[Key, Replay] = {}
        self.pace = PACES[request.effort]
        self.calls = self.pace.calls(request.n, request.k, request.m)
        self.end = 0.0

    def measure(self) -> None:
        self.say(Doing("counting the algorithms"))
        found = self._candidates()
        self.say(Count({name: len(keys) for name, keys in found.items()}))
        keys = wanted(self.request, found)
        self._build(keys)
        self.end = time.monotonic() + self.pace.seconds
        if self.request.then is not None and self.request.together:
            self._request((key for key in keys if key not in self.request.skip), self.request.then)
        self._quick(keys)
        split = self._splits()
        self._build(split)  # and plans for the next M, whose building would disturb the last round
        self._quick(split)
        self.say(self._final())

    def _candidates(self) -> dict[str, list[Key]]:
        """Return the candidates of each kernel that can run the point."""
        request = self.request
        format = format_of(request.dtype, request.pattern)
        problem = Problem(request.dtype, request.n, request.k, str(self.x.device), request.m, format)
        able = [kernel for kernel in sparse_kernels("cuda") if kernel.can_implement(problem) is None]
        found = {kernel.name: kernel.candidates(problem, self.layer.packed[0]) for kernel in able}
        return {name: [(name, c.algorithm, c.split_k) for c in choices] for name, choices in found.items()}

    def _splits(self) -> list[Key]:
        if self.request.effort == "quick":
            return []
        return [(name, algorithm, s) for name, algorithm, _ in self._best() for s in find(name).splits[1:]]

    def _missing(self, keys: Iterable[Key]) -> list[Key]:
        return [key for key in keys if key not in self.known and key not in self.request.skip]

    def _best(self) -> list[Key]:
        return finalists(self.request.dtype, sorted(self.known, key=lambda key: self.known[key].us))

    def _request(self, keys: Iterable[Key], m: int) -> None:
        """Have worker threads build what candidates need."""
        for key in keys:
            find(key[0]).prepare(self.layer.packed[0], m, Choice(*key))

    def _build(self, keys: Iterable[Key]) -> None:
        if self.request.together:
            self.say(Doing(PLANS))
            self._request(self._missing(keys), self.request.m)
            torch.ops.sparseflow.plans_wait()

    def _quick(self, keys: Iterable[Key]) -> None:
        for key in self._missing(keys):
            if len(self.known) >= FEWEST and time.monotonic() > self.end:
                return
            self.say(Trying(*key))
            try:
                self._try(key)
            except (RuntimeError, Spoilt) as error:
                self.say(Failed(*key, first_line(error)))
                if isinstance(error, Spoilt) or not alive():
                    raise Spoilt(first_line(error)) from None

    def _try(self, key: Key) -> None:
        side = self._side(key)
        rel_err = side.error(self.expected)
        side.forget()
        if why := wrong(self.request.dtype, rel_err):
            self.say(Failed(*key, why))
            return
        us, best = side.us(), min((c.us for c in self.known.values()), default=float("inf"))
        if us < HOPELESS * best:
            us = min(us, side.us())
        self.known[key] = Candidate(*key, us, rel_err)
        self.say(Measured(*key, us, rel_err))
        self.sides[key] = side

    def _side(self, key: Key) -> Replay:
        kernel, choice = find(key[0]), Choice(*key)
        x = kernel.taken(self.x)

        def product(copy: int) -> Tensor:
            return kernel.run(x, self.layer.packed[copy], choice, self.out)

        return Replay(product, self.layer.copies, self.pool, self.calls)

    def _final(self) -> Done:
        self.say(Doing("preparing the dense products"))
        opponents = dense_opponents.dense(self.layer, self.x, self.pool, self.calls)
        wide = dense_opponents.dense_bf16(self.layer, self.x, self.pool, self.calls)
        unpacked = dense_opponents.unpacked(self.layer, self.x, self.pool, self.calls)
        best = self._best()
        raw = self._unscaled(best)
        fixed = [*opponents, *wide, unpacked, *raw]
        for side in fixed:
            side.forget()
        us = in_turns(
            [*fixed, *(self._again(key) for key in best)],
            self.pace.rounds((len(fixed) + len(best)) * self.calls * self._typical_us()),
            lambda i: self.say(
                Doing("timing the dense products") if i < len(fixed) else Trying(*best[i - len(fixed)])
            ),
        )
        dense_us = min(us[: len(opponents)])
        after = len(opponents) + len(wide)
        unpacked_us = us[after] + (dense_us if self.layer.bf16 else 0.0)
        wide_us = min(us[len(opponents) : after]) if wide else None
        final = zip(best, us[len(fixed) :], strict=True)
        return Done(
            dense_us,
            unpacked_us,
            wide_us,
            tuple(Measured(*key, time, self.known[key].rel_err) for key, time in final),
            us[after + 1] if raw else None,
        )

    def _unscaled(self, best: Iterable[Key]) -> list[Replay]:
        """Return the fastest candidate of cuSPARSELt in fp8 without the scaling of its result, if any."""
        key = next((key for key in best if key[0] == CUSPARSELT.name), None)
        if key is None or not self.layer.bf16:
            return []

        def product(copy: int) -> Tensor:
            return CUSPARSELT.unscaled(self.x, self.layer.packed[copy], Choice(*key), self.out)

        return [Replay(product, self.layer.copies, self.pool, self.calls)]

    def _typical_us(self) -> float:
        return max((self.known[key].us for key in self._best()), default=0.0)

    def _again(self, key: Key) -> Replay:
        """Return a candidate's graph; capture it if an earlier child measured the candidate."""
        if key not in self.sides:
            self.say(Trying(*key))
            self.sides[key] = self._side(key)
            self.sides[key].forget()
        return self.sides[key]
