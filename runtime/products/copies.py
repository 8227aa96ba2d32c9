"""Dense copies in memory mode ``auto``: which layers have one beside their packed weight, as far as they fit.

A layer is packed alone where no measured M loses by it. Another keeps a dense copy if that buys enough, and
otherwise stays dense as a whole. Where not all copies fit, layers that gain most come first: a layer's time
is about in proportion to its bytes, so the speed-up is what it gains for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sparseflow.runtime.dispatch.policy import Policy

Shape = tuple[int, int]

COPY_PAYS = 1.10
"""The largest measured speed-up from which a dense copy is kept.

With its copy a layer takes 1.53 to 1.56 times the bytes of a dense one; what gains less than a tenth at its
best M isn't worth half as much memory again."""

SHARE = 0.5
"""Of the free memory, what copies may take together: packed weights, activations and caches need the rest."""


class Room:
    """What dense copies may still take on each device; what is given away isn't free any more.

    Args:
        free: the free bytes of a device.
    """

    def __init__(self, free: Callable[[torch.device], int] | None = None) -> None:
        self._free = free or free_bytes
        self._left: dict[torch.device, int] = {}

    def left(self, device: torch.device) -> int:
        """Return the bytes that copies may still take."""
        if device not in self._left:
            self._left[device] = int(SHARE * self._free(device))
        return self._left[device]

    def take(self, device: torch.device, nbytes: int) -> bool:
        """Give these bytes away, if there are as many."""
        fits = nbytes <= self.left(device)
        self._left[device] -= nbytes if fits else 0
        return fits


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device; without end where the system doesn't tell."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return min(_available(), _allowed()) if device.type == "cpu" else sys.maxsize


def _available() -> int:
    """Of the machine: what programs can have without swapping."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return sys.maxsize


def _allowed() -> int:
    """Of the container: what its limit leaves."""
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
    """Decide about each policy that keeps a dense copy because some M would lose without.

    Args:
        found: by layer shape; what isn't such a policy stays as it is.
        nbytes: of the copies of all layers of a shape.
        device: where they are.
        room: for copies.
        packed: whether the layers are packed in any case, so that none can stay dense as a whole: they keep
            the copy however little it buys, or else run packed alone.

    Returns:
        For each shape the policy, with the copy or without, or why its layers stay dense.
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
    """Why a layer stays dense though copies fit; empty where its copy is worth its bytes."""
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
