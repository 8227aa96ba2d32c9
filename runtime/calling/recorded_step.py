"""A step of training, recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sparseflow.runtime.calling.uncollected import uncollected

EAGER = 3
"""Steps before the recording: they compile kernels and make the optimiser's state, which must outlive it."""

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here
_CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device)
"""What inputs may hold beside tensors: a step is recorded for these values of them."""


@dataclass(frozen=True)
class _Form:
    """What the inputs of steps of one recording have in common.

    Attributes:
        structure: how they nest.
        leaves: shape, strides and dtype of tensors, and everything else as it is.
    """

    structure: pytree.TreeSpec
    leaves: tuple[object, ...]


class RecordedStep:
    """Run a step of training; the fourth one is recorded as a CUDA graph, which serves the later ones.

    A step of a small model consists of thousands of kernels, each shorter than its launch. On a CPU, and
    where CUDA can't record it, every step runs as it is.

    Args:
        step: computes a loss from its inputs, which it only reads, updates parameters and optimiser in place,
            and returns a tensor. What changes from step to step is in tensors: its inputs, or such as it
            finds at the same place each time (a learning rate, say). The optimiser must be capturable.
        device: of all tensors.
        refusal: why not to record; empty to try.

    Attributes:
        refusal: why nothing is recorded; empty as long as nothing speaks against it.
        replays: how many steps the graph served.
    """

    def __init__(self, step: Callable[..., Tensor], device: torch.device, refusal: str = "") -> None:
        self._step, self._device = step, device
        self.refusal = refusal or ("" if device.type == "cuda" else f"{device.type} has no graphs")
        self._stream = None if self.refusal else _CUDA.Stream(device)
        self._form: _Form | None = None
        self._buffers: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None
        self._seen = self.replays = 0

    def __call__(self, *inputs: object) -> Tensor:
        """Do a step.

        Args:
            inputs: tensors, and lists, tuples and dicts of them and of constants.

        Returns:
            What the step returns; later steps don't change it.
        """
        if self.refusal:
            return self._step(*inputs)
        leaves, structure = pytree.tree_flatten(inputs)
        form, reason = self._form_of(leaves, structure)
        if reason:
            self.refusal = reason
            return self._step(*inputs)
        if self._form is None:
            self._form = form
        if form != self._form:
            return self._beside(inputs)
        self._seen += 1
        if self._seen <= EAGER:
            return self._beside(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if self._graph is None and not self._record(leaves, structure):
            return self._step(*inputs)
        return self._replay(tensors)

    def _form_of(self, leaves: list[object], structure: pytree.TreeSpec) -> tuple[_Form, str]:
        """Return the form of inputs, and what of it forbids a recording."""
        found, reason = list[object](), ""
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                found.append((leaf.shape, leaf.stride(), leaf.dtype))
                if self._elsewhere(leaf):
                    reason = f"an input is on {leaf.device}"
            else:
                found.append(leaf)
                if not isinstance(leaf, _CONSTANTS):
                    reason = f"an input is of class {type(leaf).__name__}"
        return _Form(structure, tuple(found)), reason

    def _elsewhere(self, leaf: Tensor) -> bool:
        index = _CUDA.current_device() if self._device.index is None else self._device.index
        return leaf.device != torch.device("cuda", index)

    def _beside(self, inputs: tuple[object, ...]) -> Tensor:
        """Run a step without a graph on the stream of the recording.

        What autograd keeps for a parameter remembers the stream of its first use; a recording may wait for no
        other one.
        """
        assert self._stream is not None, "nothing is refused"
        before = _CUDA.current_stream(self._device)
        self._stream.wait_stream(before)
        with _CUDA.stream(self._stream):
            result = self._step(*inputs)
        before.wait_stream(self._stream)
        result.record_stream(before)
        return result

    def _record(self, leaves: list[object], structure: pytree.TreeSpec) -> bool:
        """Record the step for inputs of this form; return whether CUDA could."""
        held = [torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._buffers = [leaf for leaf in held if isinstance(leaf, Tensor)]
        given = pytree.tree_unflatten(held, structure)
        graph = _CUDA.CUDAGraph()
        _CUDA.synchronize(self._device)
        try:
            with uncollected(), _CUDA.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self._step(*given)
        except RuntimeError as error:
            self.refusal = f"CUDA can't record it: {str(error).partition(chr(10))[0]}"
            self._buffers = []
            return False
        self._graph = graph
        return True

    def _replay(self, tensors: list[Tensor]) -> Tensor:
        assert self._graph is not None, "recorded"
        assert self._result is not None, "recorded"
        torch._foreach_copy_(self._buffers, tensors)
        self._graph.replay()
        self.replays += 1
        return self._result.clone()
