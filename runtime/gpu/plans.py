"""The plan cache seen from Python: policies that name algorithms, preparing ahead, figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from sparseflow.runtime.device_weight import DeviceWeight


@dataclasses.dataclass(frozen=True)
class PlanStats:
    """Figures of the process's plan cache.

    Attributes:
        plans: held. pinned: of these, held by a CUDA graph and never evicted. pending: being built.
        failed: could not be built (``failures`` says why); tried again by a call a minute later. hits:
        lookups that found a plan. built: so far.
        evicted: dropped because the cache was full.
    """

    plans: int
    pinned: int
    pending: int
    failed: int
    hits: int
    built: int
    evicted: int


def prepare(
    weight: DeviceWeight,
    ms: Iterable[int],
    policy: Sequence[int] = (),
    *,
    bias: bool = False,
    residual: bool = False,
    epilogue: str = "none",
    wait: bool = True,
) -> int:
    """Build the plans that ``sparseflow::linear`` will want for these M's, on worker threads.

    Do it before a CUDA graph is captured: what ran otherwise then, because its plan was still being built,
    does so in the graph for good. A plan stands in for M's down to two thirds of its bucket while theirs are
    built: M's a factor of 1.3 apart leave no call without one.

    Args:
        weight: any weight of the shape, dtype and device: plans aren't tied to one.
        ms: numbers of rows; each prepares the bucket that serves it.
        policy: as the operator takes it.
        bias: whether the calls will have one.
        residual: whether the calls will have one.
        epilogue: of the calls.
        wait: return once all are built; otherwise calls run by what is there until theirs is.

    Returns:
        How many of the M's run sparse under the policy.
    """
    count: int = torch.ops.sparseflow.linear_prepare(
        weight.values, bias, weight.in_features, epilogue, list(policy), residual, list(ms), wait
    )
    return count


def path(
    weight: DeviceWeight,
    m: int,
    policy: Sequence[int] = (),
    *,
    bias: bool = False,
    residual: bool = False,
    epilogue: str = "none",
) -> str:
    """What ``sparseflow::linear`` would run now for M rows and, where that is dense, why.

    Asking changes nothing: a plan that is missing isn't built for it.

    Args:
        weight: the call's.
        m: number of rows.
        policy: as the operator takes it.
        bias: whether the call has one.
        residual: whether the call has one.
        epilogue: of the call.

    Returns:
        A sentence for a report, such as ``"cusparselt, algorithm 7"``, ``"dense: the policy says so"`` or
        ``"skinny for now: its plan is being built"``. With a gated epilogue it goes on with where the gate is
        applied: ``"; the gate is part of it"`` or ``"; the gate follows in a kernel of its own"``.
    """
    sentence: str = torch.ops.sparseflow.linear_path(
        weight.values, weight.positions, weight.in_features, epilogue, list(policy), bias, residual, m
    )
    return sentence


def stats() -> PlanStats:
    """What the plan cache holds and did."""
    return PlanStats(*torch.ops.sparseflow.plans_stats())


def failures() -> str:
    """A line for each plan that could not be built."""
    text: str = torch.ops.sparseflow.plans_failures()
    return text


def reset(*, device_was_reset: bool = False) -> None:
    """Forget every plan. No CUDA graph that was captured with them may run any more.

    Waits for the devices that have plans.

    Args:
        device_was_reset: touch nothing that lived on a device: each was reset, its context is gone.

    Raises:
        RuntimeError: a device can't be waited for, because a CUDA graph is being captured or it was reset.
            The plans are forgotten all the same.
    """
    torch.ops.sparseflow.plans_reset(device_was_reset)
