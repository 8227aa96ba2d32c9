"""Results that say what the model's would of gradients, and refuse to compute any.

What runs between two graphs may ask whether the first one's results require gradients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sparseflow.errors import InferenceOnlyError

_ANCHOR = nn.Parameter(torch.zeros(()))
"""What results pretend to depend on."""


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, subject: str, anchor: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        ctx.subject = subject
        # Neither arguments nor views of them: those can't be written in place, as the model's results can.
        plain = (result.resolve_conj().resolve_neg() for result in results)
        return tuple(_other_tensor(result) for result in plain)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise InferenceOnlyError(
            f"{ctx.subject}, backward()",
            "a compiled graph computes no gradients",
            "call the eager model to train it, and the compiled one under torch.no_grad()",
        )


def _other_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor over the same memory that is no view of this one."""
    other = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return other.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def with_refused_backward(subject: str, results: Sequence[object], required: Sequence[bool]) -> list[object]:
    """Return results of which those that would require gradients do.

    Args:
        subject: for the error that their backward raises.
        results: of a graph.
        required: whether each would require gradients.
    """
    places = [
        i
        for i, (r, needs) in enumerate(zip(results, required, strict=True))
        if needs and isinstance(r, Tensor)
    ]
    found = list(results)
    if places:
        with torch.enable_grad():
            given = (results[i] for i in places)
            changed = _Refused.apply(subject, _ANCHOR, *given)  # type: ignore[no-untyped-call]
        for place, result in zip(places, changed, strict=True):
            found[place] = result
    return found


def without_history(value: object) -> object:
    """Return a tensor without its history if that has no leaves but parameters; others as they are."""
    if isinstance(value, Tensor) and value.grad_fn is not None and _is_of_parameters(value):
        return value.detach()
    return value


def _is_of_parameters(tensor: Tensor) -> bool:
    seen, pending = {tensor.grad_fn}, deque([tensor.grad_fn])
    while pending:
        node = pending.popleft()
        assert node is not None, "only nodes are appended"
        variable = getattr(node, "variable", None)
        if variable is not None and not isinstance(variable, nn.Parameter):
            return False
        new = {other for other, _ in node.next_functions if other is not None} - seen
        seen |= new
        pending.extend(new)
    return True
