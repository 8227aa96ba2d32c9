"""Kullback-Leibler divergence between the logits of two models, over vocabularies that fill memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 1 << 26
"""How many logits are in float32 at a time."""


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher ‖ student) of logits ``[…, classes]``, in nats: ``[…]``, float32.

    Gradients flow to the student alone. Both passes go over some rows at a time in float32, because copies of
    all logits of a batch would fill more memory than the models.
    """
    found: Tensor = _Divergence.apply(student, teacher, temperature, _PASSES.get())  # type: ignore[no-untyped-call]
    return found


@contextmanager
def compiled_divergence() -> Iterator[None]:
    """Within the block, run `kl` by torch.compile, which reads 16-bit logits without a copy in float32."""
    token = _PASSES.set(_Passes(*(torch.compile(way, dynamic=True) for way in (_divergences, _slopes))))
    try:
        yield
    finally:
        _PASSES.reset(token)


def _divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL of logits ``[rows, classes]``: ``[rows]``."""
    m, t = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return (t.exp() * (t - m)).sum(-1)


def _slopes(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the gradient of KL weighted by ``[rows]`` in the student's logits ``[rows, classes]``."""
    m, t = (F.softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return (m.sub_(t).mul_(weights.unsqueeze(-1))).to(student.dtype)


@dataclass(frozen=True)
class _Passes:
    """What computes the loss of rows, and its gradient."""

    forward: Callable[[Tensor, Tensor, float], Tensor] = _divergences
    backward: Callable[[Tensor, Tensor, Tensor, float], Tensor] = _slopes


_EAGER = _Passes()
_PASSES = ContextVar("passes", default=_EAGER)


class _Divergence(torch.autograd.Function):
    """KL between rows of logits; its gradient is the difference of both distributions."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, passes: _Passes) -> Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature, ctx.passes = temperature, passes
        found = torch.empty(student.shape[:-1], dtype=torch.float32, device=student.device)
        parts = zip(_parts(student), _parts(teacher), _flat_parts(found, student), strict=True)
        for mine, theirs, part in parts:
            part.copy_(passes.forward(mine, theirs, temperature))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher = ctx.saved_tensors
        found = torch.empty_like(student, memory_format=torch.contiguous_format)
        weights = _flat_parts((grad / ctx.temperature).contiguous(), student)
        for mine, theirs, part, weight in zip(
            _parts(student), _parts(teacher), _parts(found), weights, strict=True
        ):
            part.copy_(ctx.passes.backward(mine, theirs, weight, ctx.temperature))
        return found, None, None, None


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    """Return logits ``[…, classes]`` in parts ``[rows, classes]`` of at most `_AT_ONCE` numbers."""
    return torch.split(logits.reshape(-1, logits.shape[-1]), _rows_at_once(logits))


def _flat_parts(values: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Return a number a row, in the same parts as the logits."""
    return torch.split(values.view(-1), _rows_at_once(logits))


def _rows_at_once(logits: Tensor) -> int:
    return max(1, _AT_ONCE // max(1, logits.shape[-1]))
