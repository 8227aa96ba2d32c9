"""A step bound to its tensors: run it again and again, on a GPU as one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseflow.execution.cuda_graphs import wait_for_plans
from sparseflow.execution.decoding.step_program import StepProgram
from sparseflow.runtime.calling.uncollected import uncollected

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

RECORDED_AT = 3
"""The step that is recorded as a CUDA graph: those before it compile kernels, allocate and build plans."""


class Step:
    """Decode one token, reading and writing the same tensors each time.

    Args:
        program: what runs it.
        leaves: of the model's call: the last token, its position, the mask, the cache.
        state: the tensors of the state.
        graphs: why no CUDA graph is to be recorded; empty if one is.

    Attributes:
        refusal: why there is no CUDA graph; empty while there is, or may be, one.
    """

    def __init__(
        self, program: StepProgram, leaves: Sequence[object], state: Sequence[Tensor], refusal: str
    ) -> None:
        self.program, self.refusal = program, refusal
        self._tensors = (*leaves, *state)
        self._graph: Any = None
        self._runs = 0

    def __call__(self) -> None:
        """Decode one token of each sequence."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._runs += 1
        if self._runs >= RECORDED_AT and not self.refusal:
            self._record()
            if self._graph is not None:
                self._graph.replay()
                return
        self._run()

    def _run(self) -> None:
        # Nothing requires gradients here; passing the autograd layer by saves half of an operator's overhead.
        with torch._C._AutoDispatchBelowAutograd():
            self.program.run(*self._tensors)

    def _record(self) -> None:
        """Record the step, which doesn't run it; on failure note why and never try again."""
        wait_for_plans()
        graph = _CUDA.CUDAGraph()
        try:
            with uncollected(), _CUDA.graph(graph, capture_error_mode="thread_local"):
                self._run()
        except RuntimeError as error:
            self.refusal = f"CUDA can't record it: {str(error).partition(chr(10))[0]}"
            return
        self._graph = graph
