"""Which calls are recorded as CUDA graphs though nobody asked, on a stand-in for CUDA and for its clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fake_cuda import FakeCuda, Program
from torch import fx

from sparseflow.execution import cuda_graphs, recording, self_recording
from sparseflow.execution.cuda_graphs import CudaGraphs
from sparseflow.execution.inner import Execution, make_runner
from sparseflow.execution.self_recording import SelfRecording, waits_for_values

CPU = torch.device("cpu")


class Timed:
    """A stand-in for a measured launch."""

    host, on_device = 1.0, 1.0

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def device(self) -> float:
        return self.on_device


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> type[Timed]:
    class Chosen(Timed):
        pass

    monkeypatch.setattr(cuda_graphs, "Launch", Chosen)
    return Chosen


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, timed: type[Timed]) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_graphs, "_CUDA", fake)
    monkeypatch.setattr(self_recording, "_CUDA", fake)
    monkeypatch.setattr(cuda_graphs, "wait_for_plans", lambda: None)
    return fake


def graphs_over(cuda: FakeCuda, compiles: Callable[[], int] = int) -> tuple[Program, CudaGraphs]:
    program = Program(cuda)
    return program, CudaGraphs(program, CPU, frozenset({0}), SelfRecording(CPU), compiles)


def said(graphs: CudaGraphs) -> list[str]:
    assert graphs.chooser is not None
    return graphs.chooser.said


def run(graphs: CudaGraphs, calls: int, size: int = 2) -> list[float]:
    state = torch.zeros(size)
    return [graphs(state, torch.ones(size))[0].item() for _ in range(calls)]


@pytest.mark.parametrize(("host", "recorded"), [(0.0052, True), (0.00181, True), (0.0017, False)])
def test_a_call_is_recorded_where_the_device_waits_for_the_host(
    cuda: FakeCuda, timed: type[Timed], host: float, recorded: bool
) -> None:
    timed.host, timed.on_device = host, 0.002
    program, graphs = graphs_over(cuda)
    assert run(graphs, 6) == [2, 4, 6, 8, 10, 12]
    assert (len(graphs.seconds), graphs.replays) == ((1, 4) if recorded else (0, 0))
    assert program.runs == (3 if recorded else 6)
    times = f"host {1e3 * host:.2g} ms, device 2 ms"
    reason = (
        f"recorded, {times}" if recorded else f"not recorded, the host is not what takes the time: {times}"
    )
    assert said(graphs) == [f"[2], [2]: {reason}"]


def test_a_run_that_compiles_is_measured_again(cuda: FakeCuda, timed: type[Timed]) -> None:
    timed.host, timed.on_device = 0.001, 0.002
    compiled = iter([0, 1, 1, 1, 1, 1])
    program, graphs = graphs_over(cuda, lambda: next(compiled))
    state, one = torch.zeros(2), torch.ones(2)
    graphs(state, one)
    timed.host = 5.0  # with a compilation in it
    graphs(state, one)
    timed.host = 0.001
    results = [graphs(state, one)[0].item() for _ in range(4)]
    assert results == [6, 8, 10, 12]
    assert (program.runs, graphs.seconds) == (6, [])


def test_calls_that_never_come_back_are_neither_measured_nor_recorded(cuda: FakeCuda) -> None:
    _, graphs = graphs_over(cuda)
    for size in range(1, 2 * cuda_graphs.MOST):
        assert run(graphs, 1, size) == [size]
    assert (graphs.seconds, said(graphs)) == ([], [])


def test_a_program_makes_no_more_recordings_than_it_may(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_recording, "MOST_RECORDINGS", 2)
    _, graphs = graphs_over(cuda)
    for size in (1, 2, 3, 4):
        assert run(graphs, 4, size) == [size, 2 * size, 3 * size, 4 * size]
    assert len(graphs.seconds) == 2
    assert said(graphs)[-1] == "[4], [4]: not recorded, 2 recordings are all that a program makes by itself"


def test_recordings_are_kept_before_calls_that_were_seen_once(cuda: FakeCuda) -> None:
    _, graphs = graphs_over(cuda)
    state, one = torch.zeros(2), torch.ones(2)
    for _ in range(3):
        graphs(state, one)
    for size in range(3, 2 * cuda_graphs.MOST):
        run(graphs, 1, size)
    graphs(state, one)
    assert (len(graphs.seconds), graphs.replays) == (1, 2)


def test_recordings_hold_no_more_memory_than_they_may(cuda: FakeCuda) -> None:
    cuda.grows, cuda.memory = 1000, 16 * 2500  # a recording and its inputs: 1008 bytes
    _, first = graphs_over(cuda)
    _, second = graphs_over(cuda)
    for graphs, size in ((first, 2), (second, 3), (first, 4), (first, 2), (second, 3)):
        assert run(graphs, 4, size) == [size, 2 * size, 3 * size, 4 * size]
    assert self_recording.held_bytes(CPU) <= 2500
    assert first.chooser is not None
    assert second.chooser is not None
    assert (first.chooser.bytes, second.chooser.bytes) == (1008, 1012)
    assert "it holds 0 MiB; recordings may hold 0 MiB on cpu" in said(first)[1]
    del first, second, graphs
    assert self_recording.held_bytes(CPU) == 0


def test_large_inputs_and_results_are_not_recorded(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_recording, "MOST_BYTES", 11)
    _, graphs = graphs_over(cuda)
    assert run(graphs, 5, 3) == [3, 6, 9, 12, 15]
    assert said(graphs) == ["[3], [3]: not recorded, a replay would copy 0 MiB of inputs"]
    monkeypatch.setattr(self_recording, "MOST_LENT", 3)
    _, graphs = graphs_over(cuda)
    run(graphs, 5, 1)
    assert said(graphs) == ["[1], [1]: not recorded, each recording would keep 0 MiB of results"]
    assert graphs.seconds == []


@pytest.mark.parametrize("kind", ["input", "buffer", "each other"])
def test_results_that_are_memory_of_something_else_stay_it(cuda: FakeCuda, kind: str) -> None:
    held = torch.zeros(2)

    def program(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return {"input": (x.view(-1),), "buffer": (held,), "each other": (y, y[:1])}[kind]

    graphs = CudaGraphs(program, CPU, frozenset(), SelfRecording(CPU, frozenset({held.data_ptr()})))
    for _ in range(5):
        x = torch.ones(2)
        results = graphs(x)
        results[0].zero_()
        assert (x if kind == "input" else held if kind == "buffer" else results[-1]).sum() == 0
    assert graphs.seconds == []
    assert len(said(graphs)) == 1


def test_large_results_are_lent_within_the_bounds(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LENT_FROM", 1)
    cuda.grows, cuda.memory = 1000, 16 * 1500
    _, graphs = graphs_over(cuda)
    state, kept = torch.zeros(2), []
    for _ in range(8):
        kept.append(graphs(state, torch.ones(2))[0])
    assert [result.item() for result in kept] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert graphs.replays == 1, "the only recording is lent, and another one would hold too much"


def test_calls_of_any_number_lend_large_results_by_themselves(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A language model's logits at three batch sizes; the bound is the memory that they hold."""
    monkeypatch.setattr(recording, "LENT_FROM", 1)
    monkeypatch.setattr(cuda_graphs, "MOST_COPIED", 0)
    _, graphs = graphs_over(cuda)
    for size in (1, 2, 3, 4):
        run(graphs, 4, size)
    assert len(graphs.seconds) == 4 > cuda_graphs.MOST_LENDERS
    assert graphs.replays == 8


def test_what_waits_for_values_is_known_by_its_operators() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.relu.default, (x,))
    module = fx.GraphModule(torch.nn.Module(), graph)
    assert waits_for_values(module) == ""
    graph.output(graph.call_function(torch.ops.aten.nonzero.default, (y,)))
    assert waits_for_values(module) == "aten.nonzero.default"


@pytest.mark.parametrize(
    ("mode", "device", "records"),
    [(None, "cuda", True), ("default", "cuda", False), ("max-autotune-no-cudagraphs", "cuda", False),
     (None, "cpu", False)],
)  # fmt: skip
def test_only_programs_without_a_mode_on_a_gpu_record_by_themselves(
    mode: str | None, device: str, records: bool
) -> None:
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))
    execution = Execution("eager", mode)  # type: ignore[arg-type]
    module = fx.GraphModule(torch.nn.Module(), graph)
    runner = make_runner(module, execution, torch.device(device), frozenset(), grows=False)
    assert (runner.graphs is not None) == records
    assert runner.without_graphs == ""
    grows = make_runner(module, execution, torch.device(device), frozenset(), grows=True)
    assert bool(grows.without_graphs) == records
