"""A decoding step as one program: the model's graph for one token, and the choice of the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sparseflow.execution.by_inductor import compile_by_inductor
from sparseflow.execution.decoding.counters import count_together
from sparseflow.execution.decoding.sampling import Sampling
from sparseflow.execution.decoding.state import advance
from sparseflow.execution.early_launches import early_launches
from sparseflow.execution.norms_in_products import norms_into_products
from sparseflow.execution.streaming import stream_weights
from sparseflow.runtime.calling.lowered import LoweredCall

Run = Callable[..., object]


@dataclass(frozen=True)
class StepProgram:
    """What runs a step.

    Attributes:
        graph: of the model, which it was made from.
        run: takes the leaves of a call, then the tensors of the state; writes both.
        final: whether nothing better can be made: it is compiled, or compiling failed.
        seconds: that compiling took.
        reads: the tensors of the model, if inductor compiled it for a CPU: what a tape may read.
    """

    graph: fx.GraphModule
    run: Run
    final: bool = False
    seconds: float = 0.0
    reads: tuple[Tensor, ...] = ()


def step_graph(lowered: LoweredCall, sampling: Sampling, state: Sequence[Tensor]) -> fx.GraphModule:
    """Return the graph of a step: that of a call for one token, which also chooses the next one.

    On a CPU its dense layers read their weights at the memory's pace, whatever runs the graph.

    Args:
        lowered: the call.
        sampling: how a token is chosen.
        state: the tensors of the state.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    results = graph.graph_copy(lowered.graph.graph, copied)
    places = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(places[-1]):
        more = [graph.placeholder(f"state_{i}") for i in reversed(range(len(state)))][::-1]
    logits = lowered.output(list(_nodes(results)), places).logits
    graph.call_function(_advancing(sampling), (logits, *more))
    graph.output(())
    count_together(graph)
    if _on_cpu(state):
        stream_weights(graph)
    return fx.GraphModule(lowered.graph, graph)


def _advancing(sampling: Sampling) -> Callable[..., None]:
    """`advance` for a way to choose; a function of its own, as a graph's nodes call."""

    def advance_state(logits: Tensor, *state: Tensor) -> None:
        advance(sampling, logits, *state)

    return advance_state


def _nodes(results: object) -> Sequence[object]:
    return results if isinstance(results, Sequence) else (results,)


def compile_step(graph: fx.GraphModule, tensors: Sequence[Any], sampling: Sampling) -> tuple[Run | None, str]:
    """Compile a step by inductor, for tensors of exactly these sizes.

    Args:
        graph: of `step_graph`; it is changed.
        tensors: that it is called with.
        sampling: of the step.

    Returns:
        What runs it, or None and why inductor can't compile it.
    """
    try:
        if not _on_cpu(tensors):
            norms_into_products(graph, rows=tensors[0].numel())  # one token a sequence
        with torch.no_grad():
            return compile_by_inductor(graph, tensors, inductor_options(tensors, sampling)), ""
    except Exception as error:  # of any class: whatever inductor and the C++ compiler meet
        return None, f"inductor failed: {str(error).partition(chr(10))[0]}"


def inductor_options(tensors: Sequence[object], sampling: Sampling) -> dict[str, object]:
    """Return what inductor is to do otherwise than by default.

    Args:
        tensors: that the step is called with.
        sampling: of the step.
    """
    # Draws follow torch's generator, as those of transformers do.
    options: dict[str, object] = {"size_asserts": False, "fallback_random": sampling.draws}
    if not _on_cpu(tensors):
        # Turning q, turning k and writing it, writing v share no tensor by which inductor would join them.
        options |= {"combo_kernels": True, **early_launches()}
    return options


def _on_cpu(tensors: Sequence[object]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors if isinstance(tensor, Tensor))


@functools.cache  # looking for a compiler runs it
def why_not_compiled(device: torch.device) -> str:
    """Return why inductor can't compile for a device; empty if it can."""
    if device.type != "cpu":
        return ""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # its own class of "no compiler", and whatever looking for one raises
        return f"inductor finds no C++ compiler: {str(error).partition(chr(10))[0]}"
    return ""


def plain(graph: fx.GraphModule) -> Run:
    """Run a step by torch.fx."""

    @torch.no_grad()
    def run(*tensors: Any) -> object:
        return graph(*tensors)

    return run
