"""A step bound to its tensors: run it again and again, on a GPU as one CUDA graph, on a CPU as one tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.execution.cuda_graphs import wait_for_plans
from sparseflow.execution.decoding.step_program import StepProgram
from sparseflow.execution.decoding.tape import Function, Tape, recorded, watched
from sparseflow.runtime.calling.uncollected import uncollected

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

RECORDED_AT = 3
"""The step that is recorded: those before it compile kernels, allocate and build plans, and are watched."""


class Step:
    """Decode one token, reading and writing the same tensors each time.

    Args:
        program: what runs it.
        leaves: of the model's call: the last token, its position, the mask, the cache.
        state: the tensors of the state.
        graphs: why no CUDA graph is to be recorded; empty if one is.

    Attributes:
        refusal: why there is no CUDA graph; empty while there is, or may be, one.
        no_tape: why there is no tape either; empty while there is, or may be, one.
    """

    def __init__(
        self, program: StepProgram, leaves: Sequence[object], state: Sequence[Tensor], refusal: str
    ) -> None:
        self.program, self.refusal = program, refusal
        self._tensors = (*leaves, *state)
        self._graph: Any = None
        self._function: Function | None = None
        self._tape: Tape | None = None
        self.no_tape = "" if program.reads else "inductor didn't compile it for a CPU"
        self._runs = 0

    def __call__(self) -> None:
        """Decode one token of each sequence."""
        if self._graph is not None:
            self._graph.replay()
            return
        if self._tape is not None:
            self._tape.play()
            return
        self._runs += 1
        if self._runs >= RECORDED_AT and not self.refusal:
            self._record()
            if self._graph is not None:
                self._graph.replay()
                return
        # Nothing requires gradients here; passing the autograd layer by saves half of an operator's overhead.
        with torch._C._AutoDispatchBelowAutograd():
            if self.no_tape or self._runs < RECORDED_AT - 1:
                self._run()
            elif self._function is None:
                self._watch()
            else:
                self._record_tape(self._function)

    def _run(self) -> None:
        self.program.run(*self._tensors)

    def _watch(self) -> None:
        """Run the step, and learn which function of inductor's does it."""
        found = watched(self.program.run, *self._tensors)
        if isinstance(found, str):
            self.no_tape = found
            return
        self.no_tape = found.why_not((*self._tensors, *self.program.reads))
        self._function = found

    def _record_tape(self, function: Function) -> None:
        """Run the step, and record it as a tape."""
        tape = recorded(function)
        self._function = None
        if isinstance(tape, str):
            self.no_tape = tape
        else:
            self._tape = tape

    def _record(self) -> None:
        """Record the step, which doesn't run it; on failure note why and never try again."""
        wait_for_plans()
        graph = _CUDA.CUDAGraph()
        try:
            with (
                uncollected(),
                _CUDA.graph(graph, capture_error_mode="thread_local"),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                self._run()
        except RuntimeError as error:
            self.refusal = f"CUDA can't record it: {str(error).partition(chr(10))[0]}"
            return
        self._graph = graph
