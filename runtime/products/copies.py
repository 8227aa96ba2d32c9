"""The dense copies of memory mode ``auto``: which layers keep one beside their packed weight.

A layer is packed without a copy if that loses at no measured M. Any other layer keeps a dense copy if its
speed-up is large enough, and otherwise stays dense. If the copies don't all fit into memory, the layers with
the largest speed-up come first: a layer's time is roughly proportional to its bytes, so they gain most per
byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sparseflow.runtime.dispatch.policy import Policy

Shape = tuple[int, int]

COPY_PAYS = 1.10
"""A layer keeps a dense copy if its best measured speed-up is at least this.

With its copy a layer takes 1.53 to 1.56 times the bytes of a dense one; a gain of less than a tenth at the
best M isn't worth that."""

SHARE = 0.5
"""The share of the free memory for all copies; packed weights, activations and caches need the rest."""


class Room:
    """The memory for dense copies that is left on each device.

    Args:
        free: returns the free bytes of a device.
    """

    def __init__(self, free: Callable[[torch.device], int] | None = None) -> None:
        self._free = free or free_bytes
        self._left: dict[torch.device, int] = {}

    def left(self, device: torch.device) -> int:
        """Return the bytes that are left for copies."""
        if device not in self._left:
            self._left[device] = int(SHARE * self._free(device))
        return self._left[device]

    def take(self, device: torch.device, nbytes: int) -> bool:
        """Reserve bytes for a copy; return whether there are enough."""
        fits = nbytes <= self.left(device)
        self._left[device] -= nbytes if fits else 0
        return fits


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of a device; a huge number if the system doesn't report them."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return min(_available(), _allowed()) if device.type == "cpu" else sys.maxsize


def _available() -> int:
    """Return the bytes that programs can use on this machine without swapping."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return sys.maxsize


def _allowed() -> int:
    """Return the bytes that the container's limit leaves."""
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return max(0, int(limit[0]) - int(used[0])) if used and limit and limit[0].isdigit() else sys.maxsize


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def settle(
    found: Mapping[Shape, Policy | str],
    nbytes: Mapping[Shape, int],
    device: torch.device,
    room: Room,
    *,
    packed: bool,
) -> dict[Shape, Policy | str]:
    """Decide which shapes keep a dense copy, of those that would lose at some M without one.

    Args:
        found: the policy of each layer shape, or why its layers are dense. Policies that don't depend on a
            copy, and reasons, are returned unchanged.
        nbytes: the bytes of the copies of all layers of a shape.
        device: the layers' device.
        room: the memory for copies.
        packed: whether the layers are packed in any case and can't stay dense. They keep the copy if it fits,
            however little it gains, and otherwise run without.

    Returns:
        For each shape its policy, with or without the copy, or why its layers stay dense.
    """
    settled = dict(found)
    undecided = {
        shape: policy
        for shape, policy in found.items()
        if isinstance(policy, Policy) and policy.alone is not None
    }
    for shape, policy in sorted(undecided.items(), key=lambda item: -item[1].gain[0]):
        assert policy.alone is not None, "selected above"
        reason = _not_worth(policy, policy.alone)
        if packed:
            reason = "it loses less alone" if policy.worst <= policy.alone.worst else ""
        if not reason and policy.keeps_dense and not room.take(device, nbytes[shape]):
            reason = _no_room(policy.alone, nbytes[shape], room.left(device))
        settled[shape] = (policy.alone if packed else reason) if reason else policy
    return settled


def _not_worth(kept: Policy, alone: Policy) -> str:
    """Return why a layer's copy isn't worth its bytes; empty if it is."""
    (gain, at), (worst, m) = kept.gain, kept.worst
    if not kept.pays:
        return alone.why() if alone.measured else "not measured on this machine"
    if kept.losing:
        return (
            f"stays dense: its call costs too much, {worst:.2f}× at M={m} even with a dense copy; at best "
            f"{gain:.2f}×, at M={at}"
        )
    if gain < COPY_PAYS:
        return (
            f"stays dense: {_loss(alone)}, and a dense copy beside it would gain at most {gain:.2f}×, at "
            f"M={at}, less than the {COPY_PAYS:.2f}× that its bytes are worth"
        )
    return ""


def _no_room(alone: Policy, nbytes: int, left: int) -> str:
    return (
        f"stays dense: {_loss(alone)}, and dense copies of all its kind, {nbytes / 1e6:.1f} MB, don't fit "
        f"the {left / 1e6:.1f} MB that are left for copies"
    )


def _loss(alone: Policy) -> str:
    worst, m = alone.worst
    return f"packed alone it runs at {worst:.2f}× at M={m}"
