"""Counting kernels in the profiler's events: stand-ins for what it records on a GPU that others use too."""

from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from sparseflow.profiling import kernels as module
from sparseflow.profiling.kernels import is_complete, kernels, per_call

GPU = torch.device("cuda")
CALL = [("gemm", 10.0), ("gemm", 30.0), ("flash", 5.0), ("Memset", 1.0)]


def event(name, start, us, **fields):
    span = SimpleNamespace(start=start, end=start + us)
    known = {"device_type": DeviceType.CUDA, "is_user_annotation": False}
    return SimpleNamespace(name=name, time_range=span, **(known | fields))


def trace(calls=10, lost=(), longer=()):
    """The events of some calls, without those at `lost` places, ten times as long at `longer` ones."""
    events = [
        event(name, float(at), us * (10 if at in longer else 1))
        for at, (name, us) in enumerate(CALL * calls)
        if at not in lost
    ]
    annotation = event("ProfilerStep#1", 0.0, 1e6, is_user_annotation=True)
    return [annotation, *reversed(events), event("cudaLaunchKernel", 0.0, 3.0, device_type=DeviceType.CPU)]


@pytest.fixture
def record(monkeypatch):
    def play(*traces):
        """Let the profiler record these, one each time; how often it was asked comes back."""
        left, asked = list(traces), []

        def recorded(run, device, calls, reset):
            asked.append(calls)
            return left.pop(0)

        monkeypatch.setattr(module, "_record", recorded)
        return asked

    return play


def found(calls=10):
    return {row.name: (row.calls, row.us) for row in kernels(lambda: None, GPU, calls)}


QUIET = {"gemm": (2.0, 40.0), "flash": (1.0, 5.0), "Memset": (1.0, 1.0)}


def test_each_launch_is_counted_once_and_nothing_else(record):
    record(trace())
    assert found() == QUIET


def test_launches_that_another_process_interrupts_change_no_figure(record):
    record(trace(longer=(0, 5, 21, 22)))
    assert found() == QUIET


@pytest.mark.parametrize("lost", [(0,), (39,), (0, 1, 2, 3), (38, 39)])
def test_a_record_that_lost_launches_is_made_again(record, lost):
    asked = record(trace(lost=lost), trace())
    assert found() == QUIET
    assert asked == [10, 10]


def test_the_most_complete_of_incomplete_records_counts(record):
    asked = record(*(trace(lost=range(n)) for n in (8, 1, 5, 9)))
    assert found()["gemm"] == (1.9, 39.0)
    assert len(asked) == 4


def test_no_event_is_an_error_that_says_why(record):
    record([], [], [], [])
    with pytest.raises(module.ProfileError, match="recorded no kernel"):
        found()


def test_launches_of_one_name_but_other_sizes_are_told_apart_by_their_place():
    launches = [(float(at), us) for at, us in enumerate([1.0, 100.0] * 3)]
    launches[2] = (2.0, 50.0)
    assert per_call(launches, 3) == 101.0
    assert is_complete({"gemm": launches}, 3)
    assert not is_complete({"gemm": launches[1:]}, 3)
    assert not is_complete({}, 3)


def test_a_real_profile_leaves_out_the_call_that_warms_the_profiler_up():
    weight, done = torch.randn(8, 8), []

    def run():
        torch.mm(weight, weight)
        done.append("run")

    rows = kernels(run, torch.device("cpu"), 3, lambda: done.append("reset"))
    assert {row.name: row.calls for row in rows}["aten::mm"] == 1
    assert done == ["reset", "run", "reset", "run", "run", "run"]
