"""Notice a forward that reads whether gradients are recorded, of which a trace keeps only the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparseflow.errors import CaptureError
from sparseflow.frontend.grad_mode_questions import asked_by_the_model, mode_questions_noted
from sparseflow.frontend.state.changes import BACKEND
from sparseflow.runtime.calling.gradients import GradientMode


def _reading(attribute: str) -> object:
    """Return what a TorchFunctionMode is told of for ``tensor.attribute``."""
    found: object = getattr(Tensor, attribute).__get__
    return found


_GRADIENT = _reading("grad")
_IS_INFERENCE = frozenset({Tensor.is_inference, torch.is_inference})
_NEEDS_RECORDS = frozenset({Tensor.register_hook, Tensor.retain_grad})
"""What fails where no gradients are recorded."""

_QUESTIONS = {_GRADIENT, *_IS_INFERENCE, *_NEEDS_RECORDS}.union(
    map(_reading, ("requires_grad", "grad_fn", "is_leaf", "retains_grad"))
)
_OF_MEMORY = {Tensor._is_view, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage}.union(
    map(_reading, ("_version", "_base"))
)
"""Questions whose answers differ from call to call."""

_DIFFERENTIATES = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})
WAY_OUT = "call it under torch.no_grad()"


class GradientReads:
    """What the traces of one capture have seen the model ask for.

    A trace runs without recording gradients, which is right as long as nobody looks. Where the model's own
    code does, it is traced again as it was called, and the program serves only calls in that mode. What torch
    and transformers read doesn't count: they choose among equal implementations by it.

    Args:
        mode: that of the call to capture.

    Attributes:
        records: whether the traces record gradients.
    """

    def __init__(self, mode: GradientMode) -> None:
        self._mode = mode
        self._asked = self.records = False

    @property
    def mode(self) -> GradientMode | None:
        """The mode that the traces depend on; None if nobody asked."""
        return self._mode if self._asked else None

    def recording(self) -> AbstractContextManager[object]:
        """Return the context in which to trace."""
        return torch.enable_grad() if self.records else torch.no_grad()

    def needs_another_trace(self) -> bool:
        """Return whether the last trace gave a wrong answer to what the model asked; the next one won't."""
        if self.records or not self._asked or self._mode is not GradientMode.ON:
            return False
        self.records = True
        return True

    @contextmanager
    def watching(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
        """Note in a `with` block what the model asks for.

        Args:
            tensors: those of the model and of the call, by the names that errors give them.

        Raises:
            CaptureError: the model asks for what no program can answer, or sets whether one of the tensors
                requires gradients.
        """
        before = [(name, tensor, tensor.requires_grad) for name, tensor in tensors]
        with mode_questions_noted(self._note), _Watch(self):
            yield
        for name, tensor, required in before:
            if tensor.is_leaf and tensor.requires_grad != required:
                raise CaptureError(
                    name,
                    "forward sets whether it requires gradients, which a captured program can't do to the "
                    "caller's tensor",
                    "do so before the call, or to x.detach()",
                )

    def require_no_history(self, kept: Iterable[tuple[str, object]]) -> None:
        """Refuse a forward that keeps results for the next call, where those would require gradients.

        Args:
            kept: what the model holds after the trace, by name.

        Raises:
            CaptureError: one of them would.
        """
        for name, value in kept if self.records else ():
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                raise CaptureError(
                    name,
                    "forward asks for gradients, and keeps a result that would require them; a captured "
                    "program's are without",
                    f"keep result.detach(), or {WAY_OUT}",
                )

    def note(self, func: object, answer: object) -> None:
        """Note a question of the model's own code, and the answer.

        Raises:
            CaptureError: no program can give the answer.
        """
        self._note()
        if func in _IS_INFERENCE and self._mode is GradientMode.INFERENCE:
            raise CaptureError(
                "Tensor.is_inference()",
                "forward asks whether a tensor was made in inference mode, which no trace knows",
                f"ask torch.is_inference_mode_enabled(), or {WAY_OUT}",
            )
        if func == _GRADIENT and answer is not None:
            raise CaptureError(
                "Tensor.grad",
                "forward reads a gradient, which is no part of a captured program",
                "pass it as an argument, or set it to None first: model.zero_grad()",
            )

    def _note(self) -> None:
        self._asked = True


class _Watch(TorchFunctionMode):
    def __init__(self, reads: GradientReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Make a call, and note it if it is a question."""
        # Transforms such as torch.func.grad differentiate too; those are traced.
        if func in _DIFFERENTIATES and torch._C._functorch.maybe_current_level() is None:
            raise CaptureError(
                "Tensor.backward" if func is Tensor.backward else f"torch.autograd.{func.__name__}",
                "forward differentiates, and a captured program computes forward alone",
                f"compile the part that is differentiated no more, or use {BACKEND}",
            )
        if func in _OF_MEMORY and asked_by_the_model(sys._getframe(1)):
            name = getattr(func, "__self__", func).__name__
            raise CaptureError(
                f"Tensor.{name}",
                "forward asks for a tensor's memory, which is another one in each call",
                f"pass what it decides as an argument, or use {BACKEND}",
            )
        asks = func in _QUESTIONS and asked_by_the_model(sys._getframe(1))
        if asks and func in _NEEDS_RECORDS:
            self._reads.note(func, None)
        answer = func(*args, **(kwargs or {}))
        if asks:
            self._reads.note(func, answer)
        return answer
