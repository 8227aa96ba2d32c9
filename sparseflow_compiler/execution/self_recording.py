"""Which calls of a program are recorded as CUDA graphs though nobody asked: those that wait for the host."""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, fx

from sparseflow.execution.recording import MOST_LENT

if TYPE_CHECKING:
    from types import TracebackType

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

HOST_SHARE = 0.9
"""The host's part of a call's time on the device from which a recording can win."""

MOST_RECORDINGS = 16
"""Recordings that a program makes by itself, ever."""

MOST_BYTES = 64 << 20
"""Bytes of a call's inputs that are copied in each replay."""

MOST_HELD = 2 << 30
"""Bytes that recordings of this kind hold on a GPU, all models of the process together."""

HELD_SHARE = 16
"""They never hold more than one part in so many of the GPU's memory."""

_SAID = 8
"""Decisions of a program that the report lists."""


class Launch:
    """Time a launch on the host, and from its start to its end on the device, as a context.

    A device that waits for the host ends with it; one that falls behind ends later. So a host that needs
    about as long as the device is what the device waits for, whether there was work before it or not.

    Attributes:
        host: seconds until the launch returned.
    """

    def __init__(self) -> None:
        self._start, self._end = _CUDA.Event(enable_timing=True), _CUDA.Event(enable_timing=True)
        self.host = 0.0

    def __enter__(self) -> Self:
        self._start.record()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.host = time.perf_counter() - self._began
        self._end.record()

    def device(self) -> float:
        """Return the seconds on the device, once it is done."""
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


@dataclass(eq=False)
class SelfRecording:
    """Decide which calls of a program are recorded, by measuring their second run.

    Recorded is a call that the device waits for: its launch takes the host at least `HOST_SHARE` of the time
    that passes on the device. Not so where a replay could be told from a run, or would keep or move much.

    Attributes:
        device: where the program runs.
        held: the addresses of the tensors that the program keeps; a result over one must stay that tensor.
        bytes: what the program's recordings hold.
        recordings: how many there were.
        said: the latest decisions, for the report.
    """

    device: torch.device
    held: frozenset[int] = frozenset()
    bytes: int = 0
    recordings: int = 0
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _ALL.add(self)

    @classmethod
    def of(cls, graph: fx.GraphModule, device: torch.device) -> Self:
        """Return that of a lowered graph."""
        return cls(device, frozenset(map(_memory, graph.buffers())))

    def wants(self, call: str, launch: Launch) -> bool:
        """Decide by the measured launch of a call, and by what is recorded so far."""
        if launch.host < HOST_SHARE * launch.device():
            return self.refuse(call, f"the host is not what takes the time: {_times(launch)}")
        if self.recordings >= MOST_RECORDINGS:
            return self.refuse(call, f"{MOST_RECORDINGS} recordings are all that a program makes by itself")
        if held_bytes(self.device) >= most_held(self.device):
            return self.refuse(call, self._full())
        return True

    def keeps(self, call: str, size: int, launch: Launch) -> bool:
        """Account for a recording that holds so many bytes; return whether it may be kept."""
        self.recordings += 1
        if held_bytes(self.device) + size > most_held(self.device):
            return self.refuse(call, f"it holds {size >> 20} MiB; {self._full()}")
        self.bytes += size
        self._say(f"{call}: recorded, {_times(launch)}")
        return True

    def difference(
        self, results: Sequence[object], leaves: Sequence[object], written: Collection[int]
    ) -> str:
        """Return by what a caller could tell a replay, or what makes it dear; empty if nothing.

        Args:
            results: of the program, over the caller's own tensors.
            leaves: these.
            written: the indices of those that the program writes in place.
        """
        tensors = [result for result in results if isinstance(result, Tensor)]
        places = list(map(_memory, tensors))
        read = {_memory(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        if not read.isdisjoint(places) or not self.held.isdisjoint(places):
            return "a result is memory of an input or of the model, and a replay would return a copy"
        if len(set(places)) < len(places):
            return "results share memory, and a replay would return copies"
        if (size := _size(tensors)) > MOST_LENT:
            return f"each recording would keep {size >> 20} MiB of results"
        if (size := moved_bytes(leaves, written)) > MOST_BYTES:
            return f"a replay would copy {size >> 20} MiB of inputs"
        return ""

    def refuse(self, call: str, reason: str) -> bool:
        """Note why a call is not recorded; return False."""
        self._say(f"{call}: not recorded, {reason}")
        return False

    def _full(self) -> str:
        return f"recordings may hold {most_held(self.device) >> 20} MiB on {self.device}"

    def _say(self, decision: str) -> None:
        self.said = [*self.said, decision][-_SAID:]


_ALL: weakref.WeakSet[SelfRecording] = weakref.WeakSet()


def held_bytes(device: torch.device) -> int:
    """Return the bytes that recordings which nobody asked for hold on a GPU."""
    return sum(one.bytes for one in _ALL if one.device == device)


def most_held(device: torch.device) -> int:
    """Return the bytes that such recordings may hold on a GPU."""
    return min(MOST_HELD, int(_CUDA.get_device_properties(device).total_memory) // HELD_SHARE)


def moved_bytes(leaves: Iterable[object], written: Collection[int]) -> int:
    """Return the bytes of a call's inputs that a replay would copy."""
    return _size(leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and i not in written)


def waits_for_values(graph: fx.GraphModule) -> str:
    """Return an operator of a graph whose values the host reads, which can't be recorded; empty if none."""
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not tags.isdisjoint(node.target.tags):
            return str(node.target)
    return ""


def _times(launch: Launch) -> str:
    return f"host {1e3 * launch.host:.2g} ms, device {1e3 * launch.device():.2g} ms"


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _memory(tensor: Tensor) -> int:
    """Return the address of a tensor's storage; unique numbers for empty ones, which share nothing."""
    return tensor.untyped_storage().data_ptr() or -id(tensor)
