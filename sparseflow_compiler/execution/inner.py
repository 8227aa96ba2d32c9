"""Run lowered graphs by torch.fx or inductor, with CUDA graphs over either."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx

from sparseflow.execution.by_inductor import compile_by_inductor
from sparseflow.execution.cuda_graphs import CudaGraphs
from sparseflow.execution.norms_held import hold_normed_rows
from sparseflow.execution.persistent_rows import compile_with_whole_rows, quantizes
from sparseflow.execution.rows_between import keep_rows_quantized
from sparseflow.execution.self_recording import SelfRecording, waits_for_values
from sparseflow.execution.streaming import streaming

Inner = Literal["auto", "eager", "inductor"]
Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

GRAPH_MODES: tuple[Mode, ...] = ("reduce-overhead", "max-autotune")
"""Modes with CUDA graphs. They are our own: those of inductor copy what a cache holds, or refuse it.

Without any mode a program on a GPU records by itself, where that was measured to pay.
"""

SIZES = 64
"""How many variants of a program are compiled before torch refuses: sizes, strides, inference mode."""


@dataclass(frozen=True)
class Execution:
    """How lowered graphs run.

    Attributes:
        inner: torch.fx as it is, or inductor over it; ``"auto"`` is inductor on a GPU.
        mode: that of ``torch.compile``; CUDA graphs work without inductor too. ``None`` records them where
            the host is measured to be what takes the time, ``"default"`` never.
    """

    inner: Inner = "auto"
    mode: Mode | None = None


@dataclass
class Inductor:
    """A program compiled by inductor, with the time that took.

    The first sizes are compiled as constants; a size that differs later becomes symbolic, so that further
    values of it need no compilation.

    Attributes:
        graph: the lowered graph.
        mode: of torch.compile, without CUDA graphs.
        dynamic: whether to make every size symbolic from the start.
        seconds: of each compilation by inductor, in order.
    """

    graph: fx.GraphModule
    mode: str
    dynamic: bool | None = None
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._compiled: Callable[..., Sequence[object]] = torch.compile(
            self.graph.forward, backend=self._inductor, dynamic=self.dynamic, fullgraph=True
        )

    def __call__(self, *leaves: object) -> Sequence[object]:
        """Run, compiling for new sizes.

        torch stops at 8 variants of a program; only a call that meets the limit pays for lifting it.
        """
        try:
            return self._compiled(*leaves)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            with torch._dynamo.config.patch(recompile_limit=SIZES):
                return self._compiled(*leaves)

    def _inductor(
        self, graph: fx.GraphModule, inputs: list[torch.Tensor | int | torch.SymInt | None]
    ) -> Callable[..., object]:
        from torch._inductor import list_mode_options

        start, options = time.perf_counter(), list_mode_options(self.mode)
        run = compile_by_inductor
        if quantizes(self.graph):
            run = compile_with_whole_rows
            keep_rows_quantized(graph)
        hold_normed_rows(graph)
        compiled = run(graph, inputs, options)
        self.seconds.append(time.perf_counter() - start)
        return compiled


@dataclass(frozen=True)
class Runner:
    """What runs one program for the leaves of a call.

    Attributes:
        run: takes the leaves and returns the program's results.
        inductor: set if inductor is used.
        graphs: the CUDA graphs, if the mode has them.
        without_graphs: why the program has none although the mode asks for them, or would allow them on a
            GPU; empty otherwise.
    """

    run: Callable[..., Sequence[object]]
    inductor: Inductor | None = None
    graphs: CudaGraphs | None = None
    without_graphs: str = ""


def chosen_inner(inner: Inner, device: torch.device) -> str:
    """Resolve ``"auto"`` for a device: ``"eager"`` or ``"inductor"``."""
    if inner != "auto":
        return inner
    return "inductor" if device.type == "cuda" else "eager"


def make_runner(
    graph: fx.GraphModule, execution: Execution, device: torch.device, written: frozenset[int], grows: bool
) -> Runner:
    """Make the runner of a program.

    Args:
        graph: the lowered graph, its writes in it.
        execution: how the caller wants it run.
        device: where the model is.
        written: leaves that the program writes in place.
        grows: whether the program replaces tensors of an object of its call, such as a growing cache.
    """
    inductor = None
    run: Callable[..., Sequence[object]] = graph
    if chosen_inner(execution.inner, device) == "inductor":
        run = inductor = Inductor(graph, _without_graphs(execution.mode), dynamic=grows or None)
    elif device.type == "cpu":
        run = streaming(graph)
    asked = execution.mode in GRAPH_MODES
    if not asked and (execution.mode is not None or device.type != "cuda"):
        return Runner(run, inductor)
    if reason := unrecordable(graph, device, grows):
        return Runner(run, inductor, without_graphs=reason)
    if asked:
        graphs = CudaGraphs(run, device, written)
        return Runner(graphs, inductor, graphs)
    if operator := waits_for_values(graph):
        return Runner(run, inductor, without_graphs=f"the host waits for what {operator} computes")
    compiles = int if inductor is None else functools.partial(len, inductor.seconds)
    graphs = CudaGraphs(run, device, written, SelfRecording.of(graph, device), compiles)
    return Runner(graphs, inductor, graphs)


def unrecordable(graph: fx.GraphModule, device: torch.device, grows: bool) -> str:
    """Return why CUDA graphs can't run a program; empty if they can."""
    if device.type != "cuda":
        return f"the model is on the {device.type}"
    if grows:
        return "it gives the call's objects new tensors, as a growing cache"
    # CPU scalars become kernel arguments; other CPU tensors would be copied in every call.
    away = (name for name, b in graph.named_buffers() if b.dim() and b.device != device)
    name = next(away, None)
    return "" if name is None else f"it reads {name}, which is not on {device}"


@functools.cache
def _without_graphs(mode: Mode | None) -> str:
    return "max-autotune-no-cudagraphs" if mode and mode.startswith("max-autotune") else "default"
