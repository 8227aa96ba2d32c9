"""SparseGPT (Frantar & Alistarh 2023): prune by columns, compensating errors in later columns."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch
from torch import Tensor

from sparseflow.errors import CalibrationError
from sparseflow.runtime.calling.recorded_step import RecordedStep
from sparseflow.runtime.pattern import TWO_OF_FOUR, Pattern

_MOST_RECORDED = 16
_of_thread = threading.local()


def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    *,
    pattern: Pattern = TWO_OF_FOUR,
    damping: float = 0.01,
    block: int = 128,
    name: str = "weight",
) -> Tensor:
    """Prune to a pattern and update the kept weights so that the layer's outputs change least.

    With U the upper Cholesky factor of the damped, inverted Gram matrix, each block of the pattern keeps the
    entries with the largest ``w² / U_jj²`` at the time it is reached; ties keep the earlier. The error of
    a pruned entry is spread over the columns after it: at once inside its block, after it for the others.

    Args:
        weight: ``[N, K]``, finite, of any floating dtype; it is not changed.
        gram: ``[K, K]``, ``XᵀX`` of the calibration rows up to a factor, in the dtype to compute in (float32
            or float64). It is overwritten.
        pattern: how many entries of how many are kept.
        damping: what is added to the diagonal, as a share of the diagonal's mean.
        block: columns between two updates of all columns after them, rounded down to whole blocks of the
            pattern.
        name: how errors call the layer.

    Returns:
        A new tensor of `weight`'s dtype. A shorter last block keeps as many at most. Columns of features that
        were always zero become zero.

    Raises:
        CalibrationError: the damped matrix is not positive definite.
    """
    work = weight.to(gram.dtype, copy=True)
    dead = gram.diagonal() == 0
    work[:, dead] = 0
    upper = _inverse_factor(gram, dead, damping, name)
    stride = max(1, block // pattern.block) * pattern.block
    for start in range(0, work.shape[1], stride):
        end = min(start + stride, work.shape[1])
        errors = _prune_block(work[:, start:end], upper[start:end, start:end], pattern)
        work[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
    return work.to(weight.dtype)


def _inverse_factor(gram: Tensor, dead: Tensor, damping: float, name: str) -> Tensor:
    """Return the upper U with ``UᵀU = (gram + damping)⁻¹``."""
    diagonal = gram.diagonal()
    mean = diagonal.sum() / (~dead).sum().clamp(min=1)
    # A dead feature is coupled to none: any positive value works, and the mean keeps damping scale-free.
    diagonal.masked_fill_(dead, mean if mean > 0 else 1.0).add_(damping * mean)
    upper: Tensor
    lower, failed = torch.linalg.cholesky_ex(gram)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise CalibrationError(
            f"layer {name}",
            f"XᵀX with damping={damping} is not positive definite in {gram.dtype}",
            "raise damping, or calibrate on more and more varied data",
        )
    return upper


def _prune_block(work: Tensor, upper: Tensor, pattern: Pattern) -> Tensor:
    """Prune a block of columns in place; return their scaled errors ``[N, columns]``.

    On a GPU a column's dozen kernels take less time than their launches: each shape is recorded once.
    """
    if not work.is_cuda:
        return _prune_columns(work, upper, pattern)
    pruned = _recorded(work, pattern)(work.contiguous(), upper.contiguous())
    work.copy_(pruned[0])
    return pruned[1]


def _recorded(work: Tensor, pattern: Pattern) -> RecordedStep:
    """Return what prunes blocks of this size, of which a thread keeps a few."""
    steps: OrderedDict[object, RecordedStep] = _of_thread.__dict__.setdefault("steps", OrderedDict())
    key = (work.device, work.dtype, work.shape, pattern)
    if key not in steps:

        def prune(work: Tensor, upper: Tensor) -> Tensor:
            pruned = work.clone()
            errors = _prune_columns(pruned, upper, pattern)
            return torch.stack((pruned, errors))

        steps[key] = RecordedStep(prune, work.device)
        if len(steps) > _MOST_RECORDED:
            steps.popitem(last=False)
    return steps[key]


def _prune_columns(work: Tensor, upper: Tensor, pattern: Pattern) -> Tensor:
    """Prune columns from a block's first on, in place; return their scaled errors ``[N, columns]``."""
    errors = torch.empty_like(work)
    diagonal = upper.diagonal()
    for column in range(work.shape[1]):
        place = column % pattern.block
        if place == 0:
            # |w|/U orders as w²/U² does and can't overflow.
            group = slice(column, column + pattern.block)
            keep = pattern.mask(work[:, group] / diagonal[group])
        w = work[:, column]
        pruned = w.masked_fill(~keep[:, place], 0)
        error = (w - pruned) / diagonal[column]
        w.copy_(pruned)
        work[:, column + 1 :].addr_(error, upper[column, column + 1 :], alpha=-1)
        errors[:, column] = error
    return errors
