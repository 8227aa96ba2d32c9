"""A recorded step beside a stand-in for CUDA, and without it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from sparseflow.runtime.calling import recorded_step
from sparseflow.runtime.calling.recorded_step import EAGER, RecordedStep


class Stream:
    def wait_stream(self, _):
        pass


class FakeCuda:
    """The part of torch.cuda that is used; a graph replays by running the step on its buffers."""

    def __init__(self, recordable=True):
        self.recordable, self.capturing, self.replays = recordable, False, 0
        self.step: Any = None

    def Stream(self, _):  # noqa: N802  # torch's name
        return Stream()

    def CUDAGraph(self):  # noqa: N802  # torch's name
        return self

    def current_stream(self, _):
        return Stream()

    def current_device(self):
        return 0

    def stream(self, _):
        return contextlib.nullcontext()

    def synchronize(self, _):
        pass

    @contextlib.contextmanager
    def graph(self, _, **__):
        if not self.recordable:
            raise RuntimeError("operation not permitted\nwhen capturing")
        self.capturing = True
        yield
        self.capturing = False

    def replay(self):
        self.replays += 1
        self.step.replay()


class Counter:
    """Adds its input to a sum; while it is captured it computes nothing, as on a GPU."""

    def __init__(self, cuda):
        self.cuda, self.total, self.calls = cuda, torch.zeros(1), 0
        cuda.step = self

    def __call__(self, x, factor=1):
        self.calls += 1
        self.buffer = x
        self.result = self.total if self.cuda.capturing else self.total.add_(factor * x.sum())
        return self.result

    def replay(self):
        self.total.add_(self.buffer.sum())


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(recorded_step, "_CUDA", fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    # Tensors of these tests are on the CPU.
    monkeypatch.setattr(RecordedStep, "_elsewhere", lambda *_: False)
    return fake


def test_the_fourth_step_is_recorded_and_replayed(cuda):
    counter = Counter(cuda)
    step = RecordedStep(counter, torch.device("cuda", 0))
    results = [float(step(torch.full((2,), float(turn)))) for turn in range(1, 8)]
    assert results == [2, 6, 12, 20, 30, 42, 56]
    assert (counter.calls, step.replays, cuda.replays) == (EAGER + 1, 4, 4)
    assert step.refusal == ""


def test_other_shapes_and_constants_run_beside_it(cuda):
    counter = Counter(cuda)
    step = RecordedStep(counter, torch.device("cuda", 0))
    for _ in range(5):
        step(torch.ones(2))
    assert float(step(torch.ones(3))) == 13
    assert float(step(torch.ones(2), 2)) == 17
    assert float(step(torch.ones(2))) == 19
    assert step.replays == 3


def test_what_cannot_be_recorded_runs_on_and_says_why(cuda):
    cuda.recordable = False
    counter = Counter(cuda)
    step = RecordedStep(counter, torch.device("cuda", 0))
    assert [float(step(torch.ones(1))) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert step.refusal == "CUDA can't record it: operation not permitted"
    assert (counter.calls, step.replays) == (6, 0)


def test_objects_among_the_inputs_forbid_a_recording(cuda):
    step = RecordedStep(lambda x, _: x.sum(), torch.device("cuda", 0))
    assert float(step(torch.ones(2), object())) == 2
    assert step.refusal == "an input is of class object"


def test_a_cpu_has_no_graphs():
    total = torch.zeros(1)
    step = RecordedStep(lambda x: total.add_(x.sum()), torch.device("cpu"))
    for _ in range(6):
        step(torch.ones(2))
    assert float(total) == 12
    assert (step.refusal, step.replays) == ("cpu has no graphs", 0)
