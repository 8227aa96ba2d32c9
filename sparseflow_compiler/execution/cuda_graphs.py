"""CUDA graphs of one program, recorded for repeated calls and replayed with new inputs."""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sparseflow.execution.recording import MOST_LENT, Recording, is_large, shares_memory
from sparseflow.execution.self_recording import Launch, SelfRecording, moved_bytes
from sparseflow.runtime.calling.uncollected import uncollected

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

    from sparseflow.runtime.calling.executable import Replay

_CUDA = torch.cuda

MOST = 64
"""Graphs, and calls seen once, that a program keeps."""

MOST_COPIED = 256 << 20
"""Bytes of results up to which a call is recorded to copy them: copying more takes longer than launching."""

MOST_LENDERS = 2
"""Calls of a program whose large results are lent, if recordings are asked for: they share no memory with
others. A program that chooses by itself is bounded by the memory that its recordings hold."""

LENDINGS = 2
"""Recordings of such a call that lend: one's results may live while the other runs, as in a loop."""


def wait_for_plans() -> None:
    """Wait until every requested plan is built."""
    torch.ops.sparseflow.plans_wait()


class _Key:
    """What calls with the same recordings have in common; hashed once.

    Args:
        mode: of the call.
        leaves: what it depends on of each leaf.
    """

    __slots__ = ("_hash", "leaves", "mode")

    def __init__(self, mode: tuple[object, ...], leaves: tuple[object, ...]) -> None:
        self.mode, self.leaves = mode, leaves
        self._hash = hash((mode, leaves))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and (self.mode, self.leaves) == (other.mode, other.leaves)


@dataclass
class _Call:
    """The state of calls with one key.

    Attributes:
        key: theirs.
        leaves: the graph's input buffers; None for inputs that it reads in place.
        lends: whether recordings lend large results.
        copies: whether a recording may copy all results.
        recordings: of these leaves. The last one may copy its results, the earlier ones lend them.
        launch: the measured run that decides whether there will be recordings; None if they were asked for.
        decided: whether it has decided.
        bytes: what recordings that nobody asked for hold.
    """

    key: _Key
    leaves: list[Tensor | None]
    lends: bool = False
    copies: bool = True
    recordings: list[Recording] = field(default_factory=list)
    launch: Launch | None = None
    decided: bool = False
    bytes: int = 0

    @property
    def lending(self) -> bool:
        """Whether the next recording would lend its results."""
        return self.lends and len(self.recordings) < LENDINGS

    @property
    def full(self) -> bool:
        """Whether no further recording is needed."""
        return not self.lending and not self.copies

    def free(self) -> Recording | None:
        """Return a recording that may be replayed, or None."""
        return next((recording for recording in self.recordings if recording.free), None)

    def record_no_more(self) -> None:
        """Stay with the recordings that there are."""
        self.lends = self.copies = False
        if not self.recordings:
            self.leaves = []


class CudaGraphs:
    """Run a program; the third call with the same sizes is recorded, later ones are replayed.

    Inputs are copied into the graph's own buffers, except those that the program writes, such as a static
    cache: their address is part of the key, so that a graph only runs on the cache it was recorded with.
    Results are the caller's to keep. Small ones are copies; large ones are lent by one of two recordings that
    take turns, and copied only while the caller holds those of both. A caller that reads a result on another
    stream keeps it until that is done. Calls whose results are too large for that are never recorded. Each
    stream has its own graphs.

    Args:
        run: takes the leaves of a call and returns results as a tuple.
        device: the device of all tensors.
        written: the indices of the leaves that it writes in place.
        chooser: decides which calls are recorded; None: all.
        compiles: how often `run` has compiled so far; a run that compiles is measured again.

    Attributes:
        seconds: of each recording.
        replays: how many calls a graph served.
        refusal: why nothing can be recorded; empty if it can.
    """

    def __init__(
        self,
        run: Callable[..., Sequence[object]],
        device: torch.device,
        written: frozenset[int],
        chooser: SelfRecording | None = None,
        compiles: Callable[[], int] = int,
    ) -> None:
        self._run, self._device, self._written = run, device, written
        self.chooser, self._compiles = chooser, compiles
        self._seen: OrderedDict[_Key, _Call | None] = OrderedDict()
        self._pools: dict[int, _POOL_HANDLE] = {}
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.replays = 0
        self.refusal = ""

    @property
    def recordings(self) -> int:
        """How many there were so far."""
        return len(self.seconds)

    def replay_of(self, leaves: Sequence[object]) -> Replay | None:
        """Return what replays a call over leaves like these, the written ones in the same memory.

        It checks the stream, inference mode and flags of a call, but nothing of its leaves. None if such a
        call was never recorded.
        """
        with torch.autocast("cuda", enabled=False), self._lock:
            call = self._seen.get(self._key(leaves))
            if call is None or not call.recordings:
                return None
            buffers = {i: buffer for i, buffer in enumerate(call.leaves) if buffer is not None}
        return functools.partial(self._again, self._mode(), call, list(buffers), list(buffers.values()))

    def _again(
        self,
        mode: tuple[object, ...],
        call: _Call,
        moved: list[int],
        buffers: list[Tensor],
        leaves: Sequence[object],
    ) -> Sequence[object] | None:
        if mode != self._mode() or _CUDA.is_current_stream_capturing():
            return None
        with self._lock:
            recording = call.free()
            if recording is None:
                return None
            self._seen.move_to_end(call.key)
            if buffers:
                moving = cast("list[Tensor]", [leaves[i] for i in moved])
                torch._foreach_copy_(buffers, moving)
            self.replays += 1
            return recording.replay()

    def __call__(self, *leaves: object) -> Sequence[object]:
        """Run the program for these leaves."""
        if self.refusal or _CUDA.is_current_stream_capturing():
            return self._run(*leaves)
        if reason := self._elsewhere(leaves):
            self.refusal = reason
            return self._run(*leaves)
        with _CUDA.device(self._device):
            key = self._key(leaves)
            with self._lock:
                first = key not in self._seen
                results = None if first else self._serve(key, leaves)
                if first:
                    self._remember(key)
        return self._plain(key, leaves, first) if results is None else results

    def _plain(self, key: _Key, leaves: Sequence[object], first: bool) -> Sequence[object]:
        """Run without a graph; note at once if a call that wasn't seen before is never to be recorded."""
        results = self._run(*leaves)
        if first and self.chooser is not None:
            self._choose(self.chooser, key, results, leaves)
        return results

    def _choose(
        self, chooser: SelfRecording, key: _Key, results: Sequence[object], leaves: Sequence[object]
    ) -> None:
        reason = chooser.difference(results, leaves, self._written)
        with self._lock:
            if reason and key in self._seen:
                chooser.refuse(_title(leaves), reason)
                self._seen[key] = _Call(key, [], copies=False)

    def _serve(self, key: _Key, leaves: Sequence[object]) -> Sequence[object] | None:
        """Serve a call that was seen before; None if it is to be run without a graph."""
        self._seen.move_to_end(key)
        call = self._seen[key]
        if call is None:
            return self._prepare(key, leaves)
        recording = call.free()
        if recording is None and not self._records(call, leaves):
            return None
        inputs = self._inputs(call, leaves)
        recording = recording or self._record(call, inputs)
        if recording is None:
            return None
        self.replays += 1
        return recording.replay()

    def _records(self, call: _Call, leaves: Sequence[object]) -> bool:
        """Return whether to make another recording of a call."""
        if self.chooser is not None and call.launch is not None and not call.decided:
            call.decided = True
            if not self.chooser.wants(_title(leaves), call.launch):
                call.record_no_more()
        return not call.full

    def _prepare(self, key: _Key, leaves: Sequence[object]) -> Sequence[object]:
        """Run as the graph will, so that compilation and allocation for these inputs happen now."""
        del self._seen[key]  # so that the key of the call is the one in the table, equal by identity
        call = self._seen[key] = _Call(key, self._buffers(leaves))
        inputs = self._inputs(call, leaves)
        results = self._run(*inputs) if self.chooser is None else self._measured(key, call, inputs)
        size = sum(r.nbytes for r in results if isinstance(r, Tensor))
        call.lends = any(map(is_large, results)) and size <= MOST_LENT and self._may_lend()
        call.copies = size <= MOST_COPIED
        # The next call overwrites the buffers.
        results = tuple(
            r.clone() if isinstance(r, Tensor) and shares_memory(r, call.leaves) else r for r in results
        )
        if call.full:
            call.leaves = []
        return results

    def _may_lend(self) -> bool:
        """Return whether another call may lend its results."""
        lenders = sum(call is not None and call.lends for call in self._seen.values())
        return self.chooser is not None or lenders < MOST_LENDERS

    def _measured(self, key: _Key, call: _Call, inputs: Sequence[object]) -> Sequence[object]:
        """Run, and measure whether recording would win; what compiles meanwhile is measured once more."""
        assert self.chooser is not None
        compiled = self._compiles()
        launch = Launch()
        with launch:
            results = self._run(*inputs)
        call.launch = launch
        if self._compiles() != compiled:
            self._seen[key] = None
        return results

    def _record(self, call: _Call, inputs: Sequence[object]) -> Recording | None:
        """Record a graph; on failure note why and never try again."""
        # A layer that runs densely while its plan is being built would stay dense in the graph.
        wait_for_plans()
        start = time.perf_counter()
        lends = call.lending
        graph = _CUDA.CUDAGraph()
        try:
            pool = self._pool(lends)
            with uncollected(), _CUDA.graph(graph, pool=pool, capture_error_mode="thread_local"):
                before = self._reserved()
                results = self._run(*inputs)
                grown = self._reserved() - before
        except RuntimeError as error:
            self.refusal = f"CUDA can't record it: {str(error).partition(chr(10))[0]}"
            self._forget()
            return None
        self.seconds.append(time.perf_counter() - start)
        if not self._keeps(call, inputs, grown):
            call.record_no_more()
            return None
        call.recordings.append(Recording(graph, results, inputs, lends=lends))
        return call.recordings[-1]

    def _keeps(self, call: _Call, inputs: Sequence[object], grown: int) -> bool:
        """Account for the memory of a recording that nobody asked for; return whether it may be kept."""
        if self.chooser is None or call.launch is None:
            return True
        size = grown + (0 if call.recordings else moved_bytes(inputs, self._written))
        kept = self.chooser.keeps(_title(inputs), size, call.launch)
        call.bytes += size if kept else 0
        return kept

    def _reserved(self) -> int:
        """Return the bytes that the allocator has, where what a recording adds to them counts."""
        return 0 if self.chooser is None else _CUDA.memory_reserved(self._device)

    def _pool(self, lends: bool) -> _POOL_HANDLE:
        """Return the memory pool of a recording: its stream's, or its own if it lends results."""
        if lends:
            return _CUDA.graph_pool_handle()
        return self._pools.setdefault(_CUDA.current_stream().cuda_stream, _CUDA.graph_pool_handle())

    def _buffers(self, leaves: Sequence[object]) -> list[Tensor | None]:
        # A tensor created in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            return [self._buffer(i, leaf) for i, leaf in enumerate(leaves)]

    def _buffer(self, index: int, leaf: object) -> Tensor | None:
        if index in self._written or not isinstance(leaf, Tensor):
            return None
        return torch.empty_like(leaf)

    def _inputs(self, call: _Call, leaves: Sequence[object]) -> list[object]:
        pairs = list(zip(call.leaves, leaves, strict=True))
        moved = [(buffer, leaf) for buffer, leaf in pairs if buffer is not None and isinstance(leaf, Tensor)]
        if moved:
            torch._foreach_copy_([buffer for buffer, _ in moved], [leaf for _, leaf in moved])
        return [leaf if buffer is None else buffer for buffer, leaf in pairs]

    def _remember(self, key: _Key) -> None:
        self._seen[key] = None
        if len(self._seen) > MOST:
            # What was never recorded goes first: it costs nothing to see it again.
            oldest = next((k for k, call in self._seen.items() if not (call and call.recordings)), None)
            self._drop(next(iter(self._seen)) if oldest in (None, key) else oldest)

    def _drop(self, key: _Key) -> None:
        call = self._seen.pop(key)
        if call is None:
            return
        call.recordings.clear()
        if self.chooser is not None:
            self.chooser.bytes -= call.bytes

    def _forget(self) -> None:
        for key in list(self._seen):
            self._drop(key)

    def _key(self, leaves: Sequence[object]) -> _Key:
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        parts = tuple(self._leaf_key(i, leaf) for i, leaf in enumerate(leaves))
        return _Key((self._mode(), autocast), parts)

    def _mode(self) -> tuple[object, ...]:
        """Return what a recording depends on beside its inputs and autocast."""
        return (
            _CUDA.current_stream(self._device).cuda_stream,
            torch.is_inference_mode_enabled(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    def _leaf_key(self, index: int, leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        address = leaf.data_ptr() if index in self._written else None
        return leaf.shape, leaf.stride(), address

    def _elsewhere(self, leaves: Sequence[object]) -> str:
        other = {leaf.device for leaf in leaves if isinstance(leaf, Tensor)} - {self._device}
        return f"an input is on {other.pop()}" if other else ""


def _title(leaves: Sequence[object]) -> str:
    """Name a call by the shapes of its first tensors."""
    shapes = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
    return ", ".join(map(str, shapes[:2])) + (", …" if len(shapes) > 2 else "")
