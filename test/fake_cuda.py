"""A stand-in for CUDA whose graphs replay by computing again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class FakeCuda:
    """The part of torch.cuda that is used; a graph remembers its inputs and computes into its results.

    Attributes:
        grows: bytes by which each recording makes the allocator's memory grow.
        memory: bytes of the device.
    """

    def __init__(self) -> None:
        self.recording: Any = None
        self.replays = 0
        self.reserved, self.grows, self.memory = 0, 0, 1 << 40

    def __getattr__(self, name: str) -> Any:
        return {"is_current_stream_capturing": bool, "graph_pool_handle": int}[name]

    def memory_reserved(self, _: torch.device) -> int:
        self.reserved += self.grows * (self.recording is not None)
        return self.reserved

    def get_device_properties(self, _: torch.device) -> Any:
        return type("Properties", (), {"total_memory": self.memory})

    def current_stream(self, _: object = None) -> Any:
        return type("Stream", (), {"cuda_stream": 0})

    def device(self, _: torch.device) -> Any:
        return contextlib.nullcontext()

    def CUDAGraph(self) -> FakeCuda.Graph:  # noqa: N802  # torch's name
        return FakeCuda.Graph(self)

    @contextlib.contextmanager
    def graph(self, graph: FakeCuda.Graph, **_: Any) -> Iterator[None]:
        self.recording = graph
        yield
        self.recording = None

    class Graph:
        def __init__(self, cuda: FakeCuda) -> None:
            self._cuda, self.work = cuda, []

        def replay(self) -> None:
            self._cuda.replays += 1
            for step in self.work:
                step()


class Program:
    """Adds its inputs into the first, which it writes, and returns the sum."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.runs = 0

    def __call__(self, state: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor]:
        result = torch.empty(())

        def work() -> None:
            state.add_(x)
            result.copy_(state.sum())

        self.runs += 1
        if self._cuda.recording is None:
            work()
        else:
            self._cuda.recording.work.append(work)
        return (result,)
