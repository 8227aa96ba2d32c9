"""Which calls CUDA graphs record and replay, on a stand-in for CUDA that replays by computing again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, Program

from sparseflow.execution import cuda_graphs, recording
from sparseflow.execution.cuda_graphs import CudaGraphs


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_graphs, "_CUDA", fake)
    monkeypatch.setattr(cuda_graphs, "wait_for_plans", lambda: None)
    return fake


def graphs_over(cuda: FakeCuda) -> tuple[Program, CudaGraphs]:
    program = Program(cuda)
    return program, CudaGraphs(program, torch.device("cpu"), frozenset({0}))


def test_what_comes_a_third_time_is_recorded_and_every_call_is_right(cuda: FakeCuda) -> None:
    program, graphs = graphs_over(cuda)
    state, expected, kept = torch.zeros(2), 0.0, []
    for step in range(1, 7):
        x = torch.full((2,), float(step))
        expected += 2 * step
        kept.append((graphs(state, x)[0], expected))
    assert all(found == value for found, value in kept), "results of earlier calls stay as they were"
    assert torch.equal(state, torch.full((2,), 21.0))
    assert (program.runs, cuda.replays, graphs.replays, len(graphs.seconds)) == (3, 4, 4, 1)


def test_another_cache_or_another_size_has_a_graph_of_its_own(cuda: FakeCuda) -> None:
    _, graphs = graphs_over(cuda)
    states = [torch.zeros(2), torch.zeros(2), torch.zeros(3)]
    for _ in range(4):
        for state in states:
            graphs(state, torch.ones(state.shape))
    assert [state.sum().item() for state in states] == [8, 8, 12]
    assert len(graphs.seconds) == 3


def test_results_too_large_to_be_copied_are_computed_every_time(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_COPIED", 3)
    program, graphs = graphs_over(cuda)
    state = torch.zeros(2)
    assert [graphs(state, torch.ones(2))[0].item() for _ in range(5)] == [2, 4, 6, 8, 10]
    assert (program.runs, cuda.replays, graphs.refusal) == (5, 0, "")


def test_large_results_are_lent_by_two_recordings_and_copied_only_while_both_are_held(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LENT_FROM", 1)
    _, graphs = graphs_over(cuda)
    state, one = torch.zeros(2), torch.ones(2)
    result = None
    places = set()
    for step in range(1, 8):
        result = graphs(state, one)[0]  # the last one is held while the next is made
        places.add(result.data_ptr())
        assert result == 2 * step
    assert len(graphs.seconds) == 2
    kept = [graphs(state, one)[0] for _ in range(4)]
    assert [result.item() for result in kept] == [16, 18, 20, 22], "none was overwritten"
    assert len(graphs.seconds) == 3
    part = kept[0].view(1)
    del kept, result
    assert [graphs(state, one)[0].item() for _ in range(3)] == [24, 26, 28]
    assert part.item() == 16, "a view of a result holds it too"
    assert len(graphs.seconds) == 3


def test_results_too_large_to_be_copied_are_lent_while_a_recording_is_free(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LENT_FROM", 1)
    monkeypatch.setattr(cuda_graphs, "MOST_COPIED", 3)
    program, graphs = graphs_over(cuda)
    state = torch.zeros(2)
    kept = [graphs(state, torch.ones(2))[0] for _ in range(6)]
    assert [result.item() for result in kept] == [2, 4, 6, 8, 10, 12]
    assert (program.runs, cuda.replays) == (6, 2)


def test_a_large_result_that_is_an_input_is_copied(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LENT_FROM", 1)
    graphs = CudaGraphs(lambda x: (x.view(-1),), torch.device("cpu"), frozenset())
    kept = [graphs(torch.full((2,), float(step)))[0] for step in range(6)]
    assert [result[0].item() for result in kept] == list(range(6))
    assert len(graphs.seconds) == 1


def test_sizes_that_never_come_back_are_never_recorded(cuda: FakeCuda) -> None:
    _, graphs = graphs_over(cuda)
    for size in range(1, 2 * cuda_graphs.MOST):
        assert graphs(torch.zeros(size), torch.ones(size))[0] == size
    assert graphs.seconds == []


def test_expanded_inputs_have_buffers_too(cuda: FakeCuda) -> None:
    _, graphs = graphs_over(cuda)
    state = torch.zeros(4)
    for _ in range(4):
        graphs(state, torch.ones(1).expand(4))
    assert torch.equal(state, torch.full((4,), 4.0))


def test_what_cannot_be_recorded_runs_without_a_graph_and_says_why(cuda: FakeCuda) -> None:
    @contextlib.contextmanager
    def graph(*_: Any, **__: Any) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
        yield

    cuda.graph = graph
    _, graphs = graphs_over(cuda)
    state = torch.zeros(2)
    for _ in range(5):
        graphs(state, torch.ones(2))
    assert torch.equal(state, torch.full((2,), 5.0))
    assert graphs.refusal == "CUDA can't record it: operation not permitted when stream is capturing"


def test_an_input_elsewhere_is_no_input_of_a_graph(cuda: FakeCuda) -> None:
    graphs = CudaGraphs(lambda x: (x,), torch.device("cuda", 0), frozenset())
    assert graphs(torch.ones(2))[0].sum() == 2
    assert graphs.refusal == "an input is on cpu"


def test_what_was_recorded_is_replayed_without_its_key(cuda: FakeCuda) -> None:
    program, graphs = graphs_over(cuda)
    state = torch.zeros(2)
    assert graphs.replay_of([state, torch.ones(2)]) is None
    for _ in range(3):
        graphs(state, torch.ones(2))
    replay = graphs.replay_of([state, torch.ones(2)])
    assert replay is not None
    results = [replay([state, torch.full((2,), float(x))]) for x in (2, 3)]
    assert [result[0].item() for result in results if result is not None] == [10, 16]
    assert (program.runs, graphs.replays) == (3, 3)
    assert graphs.replay_of([torch.zeros(2), torch.ones(2)]) is None, "another state"
    with torch.inference_mode():
        assert replay([state, torch.ones(2)]) is None
    for size in range(3, 3 + cuda_graphs.MOST):
        other = torch.zeros(size)
        for _ in range(3):
            graphs(other, torch.ones(size))
    assert replay([state, torch.ones(2)]) is None, "the recording is gone"
