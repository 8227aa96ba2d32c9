"""Stopwatches: which clock a call's seconds come from; the clocks are the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparseflow.runtime import timing
from sparseflow.runtime.robust import settle


@pytest.mark.parametrize(
    ("passed", "used", "seconds"),
    [
        (0.010, 0.010, 0.010),  # alone on its core
        (0.016, 0.010, 0.010),  # another process had the core for a while
        (0.010, 0.005, 0.005),
        (0.010, 0.001, 0.010),  # the clock of processor time is late…
        (0.010, 0.000, 0.010),  # …or stood still
    ],
)
def test_processor_time_is_believed_if_the_thread_worked_at_all(monkeypatch, passed, used, seconds):
    clocks = SimpleNamespace(passed=7.0, used=3.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clocks.passed)
    monkeypatch.setattr(timing.time, "thread_time", lambda: clocks.used)

    def run() -> None:
        clocks.passed += passed
        clocks.used += used

    assert timing.once_on_this_thread(run) == pytest.approx(seconds)
    assert timing.once(run) == pytest.approx(passed)


def test_a_measurement_settles_where_processor_time_stands_still(monkeypatch):
    monkeypatch.setattr(timing.time, "thread_time", lambda: 3.0)
    turns = timing.Turns([lambda turn: sum(range(1000))] * 2, timing.once_on_this_thread)
    assert all(time > 0 for time in settle(turns, most=20, limit=1.0).times)
