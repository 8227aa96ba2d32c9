"""The cache of cuSPARSELt plans: building plans ahead, asking what would run, statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from sparseflow.runtime.tiled_weight import TiledWeight

if TYPE_CHECKING:
    from sparseflow.runtime.kernels.base import Weight


@dataclasses.dataclass(frozen=True)
class PlanStats:
    """Statistics of the process's plan cache.

    Attributes:
        plans: plans in the cache.
        pinned: those of them that a CUDA graph uses; they are never evicted.
        pending: plans being built.
        failed: plans that could not be built (`failures` says why); a call a minute later tries again.
        hits: lookups that found a plan.
        built: plans built so far.
        evicted: plans dropped because the cache was full.
    """

    plans: int
    pinned: int
    pending: int
    failed: int
    hits: int
    built: int
    evicted: int


def prepare(
    weight: Weight,
    ms: Iterable[int],
    policy: Sequence[int] = (),
    *,
    bias: bool = False,
    residual: bool = False,
    epilogue: str = "none",
    wait: bool = True,
) -> int:
    """Build the plans that ``sparseflow::linear`` needs for numbers of rows, on worker threads.

    Call it before capturing a CUDA graph: a layer whose plan is still being built runs another way, and would
    do so in the graph for good. Until a plan is built, one of a larger bucket serves M's down to two thirds
    of that bucket, so preparing M's a factor of 1.3 apart leaves no call without a plan.

    Args:
        weight: any weight of the shape, dtype and device; plans aren't tied to a weight.
        ms: numbers of rows; each prepares the bucket that serves it.
        policy: the operator's argument.
        bias: whether the calls will have a bias.
        residual: whether the calls will have a residual.
        epilogue: the epilogue of the calls.
        wait: return only when all plans are built.

    Returns:
        The number of M's that run sparse under the policy.
    """
    count: int = torch.ops.sparseflow.linear_prepare(
        weight.values, bias, weight.in_features, epilogue, list(policy), residual, list(ms), wait
    )
    return count


def rows_of_plans(largest: int, dtype: torch.dtype) -> list[int]:
    """Return a number of rows for every plan that serves up to so many: the most that each serves of them.

    Args:
        largest: the most rows that any call has.
        dtype: of the weight's values.
    """
    found: list[int] = []
    while not found or found[-1] < largest:
        first = found[-1] + 1 if found else 1
        found.append(min(largest, torch.ops.sparseflow.plan_rows(first, dtype)))
    return found


def path(
    weight: Weight,
    m: int,
    policy: Sequence[int] = (),
    *,
    bias: bool = False,
    residual: bool = False,
    epilogue: str = "none",
) -> str:
    """Return what the weight's operator would run now for M rows and, if that is dense, why.

    It changes nothing: a missing plan isn't built.

    Args:
        weight: the call's weight.
        m: the number of rows.
        policy: the operator's argument.
        bias: whether the call has a bias.
        residual: whether the call has a residual.
        epilogue: the epilogue of the call.

    Returns:
        A sentence for a report, such as ``"cusparselt, algorithm 7"``, ``"dense: the policy says so"`` or
        ``"skinny for now: its plan is being built"``. With a gated epilogue it ends with where the gate is
        applied: ``"; the gate is part of it"`` or ``"; the gate follows in a kernel of its own"``.
    """
    tensors = weight.values, weight.positions, weight.in_features
    if isinstance(weight, TiledWeight):
        tiled: str = torch.ops.sparseflow.pattern_path(*tensors, epilogue, list(policy), weight.block, m)
        return tiled
    sentence: str = torch.ops.sparseflow.linear_path(*tensors, epilogue, list(policy), bias, residual, m)
    return sentence


def stats() -> PlanStats:
    """Return the statistics of the plan cache."""
    return PlanStats(*torch.ops.sparseflow.plans_stats())


def failures() -> str:
    """Return a line for each plan that could not be built."""
    text: str = torch.ops.sparseflow.plans_failures()
    return text


def reset(*, device_was_reset: bool = False) -> None:
    """Drop every plan, after waiting for the devices that have plans.

    CUDA graphs that were captured with the plans must not run any more.

    Args:
        device_was_reset: every device was reset, so free nothing that lived on one.

    Raises:
        RuntimeError: a device can't be waited for, because a CUDA graph is being captured or the device was
            reset. The plans are dropped all the same.
    """
    torch.ops.sparseflow.plans_reset(device_was_reset)
