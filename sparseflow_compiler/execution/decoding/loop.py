"""Decode requests: the prompt into a static cache, then step after step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparseflow.execution.decoding.finish import Watch
from sparseflow.execution.decoding.request import Request
from sparseflow.execution.decoding.sampling import Sampling
from sparseflow.execution.decoding.slots import Slot
from sparseflow.execution.decoding.state import State, advance
from sparseflow.execution.decoding.step import Step
from sparseflow.execution.decoding.step_program import (
    StepProgram,
    compile_step,
    plain,
    step_graph,
    why_not_compiled,
)
from sparseflow.execution.inner import Execution, unrecordable
from sparseflow.runtime.calling.lowered import LoweredCall
from sparseflow.runtime.huge_pages import lay_in_huge_pages

Lower = Callable[..., LoweredCall]
"""Gives the graph that serves a call of the model."""

PAYS_AFTER = 256
"""Steps from which compiling one pays on a CPU, where it takes ten seconds; a GPU's are always compiled."""


@dataclass(frozen=True)
class Ready:
    """A request whose prompt is in the cache.

    Attributes:
        request: what was asked for.
        state: begins with the prompt.
        logits: after it.
        step: decodes a token; None if there are none after the first.
        steps: how many at most.
    """

    request: Request
    state: State
    logits: Tensor
    step: Step | None
    steps: int


class Decoder:
    """Decode with a compiled model.

    Args:
        forward: of the compiled model.
        lower: gives the graph of a call.
        execution: how the caller wants graphs run.
        cached: gives the keyword argument of forward that is a cache.

    Attributes:
        notes: how steps run, for the report.
        last: the step that was asked for last, with what it reads and writes.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        lower: Lower,
        execution: Execution,
        cached: Callable[[object], dict[str, object]],
    ) -> None:
        self._forward, self._lower, self._execution, self._cached = forward, lower, execution, cached
        self._programs: dict[object, StepProgram] = {}
        self._asked: dict[object, int] = {}
        self._lock = threading.Lock()
        self.notes: dict[str, str] = {}
        self.last: tuple[Slot, State, Step] | None = None

    def _prefill(self, request: Request, slot: Slot) -> Tensor:
        """Run the prompt, chunk by chunk, and return the logits after it, `[batch, tokens, vocabulary]`."""
        length = request.ids.shape[1]
        if request.mask is not None:
            slot.mask.fill_(1)
            slot.mask[:, :length] = request.mask
        logits: Any = None
        for first in range(0, length, request.chunk or length):
            part = slice(first, min(length, first + (request.chunk or length)))
            positions = None if request.positions is None else request.positions[:, part]
            call = self._call(request, slot, request.ids[:, part].contiguous(), positions)
            logits = self._forward(**call).logits
        found: Tensor = logits
        return found

    def prepare(self, request: Request, slot: Slot) -> Ready:
        """Run the prompt, and make the programs that go on from it.

        Raises:
            SparseFlowError: one can't be made. No token was chosen or handed over yet.
        """
        logits = self._prefill(request, slot)
        state = self._state(request, slot, logits)
        state.start(request)
        steps = request.max_length - request.ids.shape[1] - 1
        step = self._step(request, slot, state, steps) if steps > 0 else None
        return Ready(request, state, logits, step, steps)

    def decode(self, ready: Ready) -> Tensor:
        """Choose the first token and go on from it; return the sequences, int64 `[batch, length]`."""
        request, state = ready.request, ready.state
        with torch.no_grad():
            advance(request.sampling, ready.logits, *state.tensors())
        hand_over = _Handover(request, state)
        hand_over()
        watch = Watch(state.unfinished, ends=request.can_end, waits=hand_over.waits)
        for _ in range(ready.steps):
            if ready.step is None or watch.over():
                break
            ready.step()
            hand_over()
        if ready.step is not None and ready.step.program.reads and ready.step.no_tape:
            self.notes["tape"] = f"none: {ready.step.no_tape}"
        if request.streamer is not None:
            request.streamer.end()
        return state.tokens[:, : int(state.lengths.max())].clone()

    def _call(self, request: Request, slot: Slot, ids: Tensor, positions: Tensor | None) -> dict[str, object]:
        call: dict[str, object] = {"input_ids": ids, **self._cached(slot.cache), **request.options}
        if request.mask is not None:
            call["attention_mask"] = slot.mask
        if positions is not None:
            call["position_ids"] = positions.expand(slot.batch, -1).contiguous()
        return call

    def _state(self, request: Request, slot: Slot, logits: Tensor) -> State:
        key = (request.sampling, request.eos.numel())
        if key not in slot.states:
            with torch.inference_mode(False):
                slot.states[key] = State.make(request, slot.length + 1, logits.shape[-1], logits.device)
        return slot.states[key]

    def _step(self, request: Request, slot: Slot, state: State, steps: int) -> Step:
        """Return the step for a slot and a state: the last one, unless it has become worth compiling."""
        position = None if request.positions is None else state.position
        lowered = self._lower(**self._call(request, slot, state.token, position))
        key = (request.sampling, request.eos.numel(), request.mask is not None)
        program = self._program(lowered, request, state, steps)
        step = slot.steps.get(key)
        if step is None or step.program is not program:
            refusal = unrecordable(lowered.graph, state.token.device, False)
            step = slot.steps[key] = Step(program, lowered.call.leaves, state.tensors(), refusal)
        self.last = slot, state, step
        return step

    def _program(self, lowered: LoweredCall, request: Request, state: State, steps: int) -> StepProgram:
        tensors = [*lowered.call.leaves, *state.tensors()]
        shapes = tuple(t.shape if isinstance(t, Tensor) else t for t in tensors)
        key = (id(lowered.graph), request.sampling, shapes)
        with self._lock:
            self._asked[key] = self._asked.get(key, 0) + steps
            found = self._programs.get(key)
            reason = self._why_plain(state.token.device, self._asked[key])
            if found is None or not (found.final or reason):
                found = self._programs[key] = self._make(lowered, request.sampling, tensors, reason)
            return found

    def forget(self) -> None:
        """Forget all programs, as those of the model were forgotten."""
        with self._lock:
            self._programs, self._asked = {}, {}

    def _make(self, lowered: LoweredCall, sampling: Sampling, tensors: list[Any], reason: str) -> StepProgram:
        state = tensors[len(lowered.call.leaves) :]
        if tried := not reason:
            start, step = time.perf_counter(), step_graph(lowered, sampling, state)
            on_cpu = state[0].device.type == "cpu"
            reads = (*step.parameters(), *step.buffers()) if on_cpu else ()
            run, reason = compile_step(step, tensors, sampling)
            if run is not None:
                lay_in_huge_pages(reads)
                self.notes["step"] = "inductor"
                seconds = time.perf_counter() - start
                return StepProgram(lowered.graph, run, final=True, seconds=seconds, reads=reads)
        self.notes["step"] = f"torch.fx: {reason}"
        return StepProgram(lowered.graph, plain(step_graph(lowered, sampling, state)), final=tried)

    def _why_plain(self, device: torch.device, steps: int) -> str:
        """Return why a step isn't compiled; empty if it is."""
        if self._execution.inner == "eager":
            return "inner='eager'"
        if self._execution.inner == "auto" and device.type == "cpu" and steps < PAYS_AFTER:
            return f"compiling it pays from {PAYS_AFTER} tokens on"
        return why_not_compiled(device)


class _Handover:
    """Give each new token to the streamer and to the criteria, if there are any."""

    def __init__(self, request: Request, state: State) -> None:
        self._request, self._state = request, state
        self._count = request.ids.shape[1]

    @property
    def waits(self) -> bool:
        """Whether the host reads every token, so that it may as well read whether there are more."""
        return self._request.streamer is not None or bool(self._request.criteria)

    def __call__(self) -> None:
        self._count += 1
        if self._request.streamer is not None:
            self._request.streamer.put(self._state.token[:, 0].to("cpu", copy=True))
        for criterion in self._request.criteria:
            done = criterion(self._state.tokens[:, : self._count], None)
            self._state.unfinished.logical_and_(~torch.as_tensor(done, device=self._state.token.device))
