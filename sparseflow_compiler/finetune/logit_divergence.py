"""Kullback-Leibler divergence between the logits of two models, over vocabularies that fill memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
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
    compiled = _Passes(torch.compile(_divergences, dynamic=True), torch.compile(_slopes, dynamic=True))
    token = _PASSES.set(compiled)
    try:
        yield
    finally:
        _PASSES.reset(token)


def _divergences(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """Return KL of logits ``[rows, classes]``, then what `_log_softmax` subtracts of both, ``[rows]``.

    It needs the sums of probabilities only at the end, so that logits are read twice: for the highest, and
    for the sums.
    """
    m, t = (logits.float() / temperature for logits in (student, teacher))
    tops = m.amax(-1), t.amax(-1)
    m, t = m - tops[0].unsqueeze(-1), t - tops[1].unsqueeze(-1)
    weights = t.exp()
    sums = m.exp().sum(-1), weights.sum(-1)
    totals = sums[0].log(), sums[1].log()
    found = (weights * (t - m)).sum(-1) / sums[1] + totals[0] - totals[1]
    return found, tops[0], totals[0], tops[1], totals[1]


def _slopes(
    student: Tensor, teacher: Tensor, parts: Sequence[Tensor], weights: Tensor, temperature: float, to: Tensor
) -> None:
    """Write the gradient of KL weighted by ``[rows]`` in the student's logits ``[rows, classes]``."""
    m, t = (logits.float() / temperature for logits in (student, teacher))
    difference = _log_softmax(m, *parts[:2]).exp() - _log_softmax(t, *parts[2:]).exp()
    to.copy_(difference * weights.unsqueeze(-1))


def _log_softmax(logits: Tensor, top: Tensor, total: Tensor) -> Tensor:
    """Return the logarithms of probabilities. The highest logit goes first: differences to it are exact."""
    return logits - top.unsqueeze(-1) - total.unsqueeze(-1)


@dataclass(frozen=True)
class _Passes:
    """What computes the loss of rows, and writes its gradient."""

    forward: Callable[[Tensor, Tensor, float], tuple[Tensor, ...]] = _divergences
    backward: Callable[[Tensor, Tensor, Sequence[Tensor], Tensor, float, Tensor], None] = _slopes


_EAGER = _Passes()
_PASSES = ContextVar("passes", default=_EAGER)


class _Divergence(torch.autograd.Function):
    """KL between rows of logits; its gradient is the difference of both distributions."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, passes: _Passes) -> Tensor:
        ctx.temperature, ctx.passes = temperature, passes
        results = [
            torch.empty(student.shape[:-1], dtype=torch.float32, device=student.device) for _ in range(5)
        ]
        split = zip(*(_flat_parts(result, student) for result in results), strict=True)
        for mine, theirs, parts in zip(_parts(student), _parts(teacher), split, strict=True):
            for part, value in zip(parts, passes.forward(mine, theirs, temperature), strict=True):
                part.copy_(value)
        ctx.save_for_backward(student, teacher, *results[1:])
        return results[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, *parts = ctx.saved_tensors
        found = torch.empty_like(student, memory_format=torch.contiguous_format)
        weights = (grad / ctx.temperature).contiguous()
        rows = zip(*(_flat_parts(each, student) for each in (*parts, weights)), strict=True)
        logits = zip(_parts(student), _parts(teacher), _parts(found), strict=True)
        for (mine, theirs, part), (*subtracted, weight) in zip(logits, rows, strict=True):
            ctx.passes.backward(mine, theirs, subtracted, weight, ctx.temperature, part)
        return found, None, None, None


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    """Return logits ``[…, classes]`` in parts ``[rows, classes]`` of at most `_AT_ONCE` numbers."""
    return torch.split(logits.reshape(-1, logits.shape[-1]), _rows_at_once(logits))


def _flat_parts(values: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Return a number a row, in the same parts as the logits."""
    return torch.split(values.view(-1), _rows_at_once(logits))


def _rows_at_once(logits: Tensor) -> int:
    return max(1, _AT_ONCE // max(1, logits.shape[-1]))
