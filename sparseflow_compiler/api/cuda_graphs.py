"""CUDA graphs of one program: recorded for calls that come back, replayed with the new inputs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here

MOST = 64
"""Graphs, and calls seen once, that a program keeps."""

MOST_COPIED = 256 << 20
"""Bytes of results up to which a call is recorded: copying more takes longer than launching kernels."""


def wait_for_plans() -> None:
    """Return when every plan that was asked for is built."""
    torch.ops.sparseflow.plans_wait()


@dataclass
class _Call:
    """What is known of calls with one key.

    Attributes:
        leaves: the inputs that the graph reads: buffers of its own, None for what is read where it is.
        graph: recorded with them; None until then.
        results: what the graph leaves behind.
        recordable: whether the results are small enough to be copied in every call.
    """

    leaves: list[Any]
    graph: Any = None
    results: tuple[Any, ...] = ()
    recordable: bool = True


class CudaGraphs:
    """Runs a program; what comes a third time in the same sizes is recorded and replayed from then on.

    Inputs are copied into the graph's own buffers, but those that the program writes, such as a static cache:
    they are part of the key by their address, so that a graph only runs on the cache it was recorded with.
    Results are copies, the caller's to keep; calls with more of them than `MOST_COPIED` are never recorded.
    Each stream has graphs of its own.

    Args:
        run: takes the leaves of a call and returns results as a tuple.
        device: where all of it runs.
        written: the indices of the leaves that it writes in place.

    Attributes:
        seconds: of each recording.
        replays: how many calls a graph served.
        refusal: why nothing can be recorded; empty as long as it can.
    """

    def __init__(self, run: Callable[..., Any], device: torch.device, written: frozenset[int]) -> None:
        self._run, self._device, self._written = run, device, written
        self._seen: OrderedDict[Any, _Call | None] = OrderedDict()
        self._pools: dict[int, Any] = {}
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.replays = 0
        self.refusal = ""

    def __call__(self, *leaves: Any) -> Any:
        """Run the program for these leaves."""
        if self.refusal or _CUDA.is_current_stream_capturing():
            return self._run(*leaves)
        if reason := self._elsewhere(leaves):
            self.refusal = reason
            return self._run(*leaves)
        with self._lock, _CUDA.device(self._device):
            return self._serve(self._key(leaves), leaves)

    def _serve(self, key: Any, leaves: Sequence[Any]) -> Any:
        if key not in self._seen:
            self._remember(key, None)
            return self._run(*leaves)
        self._seen.move_to_end(key)
        call = self._seen[key]
        if call is None:
            # As the graph will run: what compiles or allocates for these inputs does it now.
            call = self._seen[key] = _Call(self._buffers(leaves))
            results = self._run(*self._inputs(call, leaves))
            if sum(r.nbytes for r in results if isinstance(r, Tensor)) > MOST_COPIED:
                call.recordable, call.leaves = False, []
            return results
        if not call.recordable:
            return self._run(*leaves)
        inputs = self._inputs(call, leaves)
        if call.graph is None and not self._record(key, call, inputs):
            return self._run(*leaves)
        call.graph.replay()
        self.replays += 1
        return tuple(r.clone() if isinstance(r, Tensor) else r for r in call.results)

    def _record(self, key: Any, call: _Call, inputs: Sequence[Any]) -> bool:
        """Record the graph; where that fails say why, and never try again."""
        # What runs densely because its plan is still being built would stay dense in the graph.
        wait_for_plans()
        start = time.perf_counter()
        stream = _CUDA.current_stream().cuda_stream
        pool = self._pools.setdefault(stream, _CUDA.graph_pool_handle())
        graph = _CUDA.CUDAGraph()
        try:
            with _CUDA.graph(graph, pool=pool, capture_error_mode="thread_local"):
                results = self._run(*inputs)
        except RuntimeError as error:
            self.refusal = f"CUDA can't record it: {str(error).partition(chr(10))[0]}"
            self._seen.clear()
            return False
        call.graph, call.results = graph, tuple(results)
        self.seconds.append(time.perf_counter() - start)
        return True

    def _buffers(self, leaves: Sequence[Any]) -> list[Any]:
        # A tensor made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            return [self._buffer(i, leaf) for i, leaf in enumerate(leaves)]

    def _buffer(self, index: int, leaf: Any) -> Any:
        if index in self._written or not isinstance(leaf, Tensor):
            return None
        return torch.empty_like(leaf)

    def _inputs(self, call: _Call, leaves: Sequence[Any]) -> list[Any]:
        pairs = list(zip(call.leaves, leaves, strict=True))
        moved = [(buffer, leaf) for buffer, leaf in pairs if buffer is not None]
        if moved:
            torch._foreach_copy_([buffer for buffer, _ in moved], [leaf for _, leaf in moved])
        return [leaf if buffer is None else buffer for buffer, leaf in pairs]

    def _remember(self, key: Any, call: _Call | None) -> None:
        self._seen[key] = call
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)

    def _key(self, leaves: Sequence[Any]) -> Any:
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        mode = (_CUDA.current_stream().cuda_stream, torch.is_inference_mode_enabled(), autocast)
        return mode, tuple(self._leaf_key(i, leaf) for i, leaf in enumerate(leaves))

    def _leaf_key(self, index: int, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        address = leaf.data_ptr() if index in self._written else None
        return leaf.shape, leaf.stride(), address

    def _elsewhere(self, leaves: Sequence[Any]) -> str:
        other = {leaf.device for leaf in leaves if isinstance(leaf, Tensor)} - {self._device}
        return f"an input is on {other.pop()}" if other else ""
