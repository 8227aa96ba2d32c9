"""Measuring and calibrating: small layers, real kernels; only the bookkeeping is asserted, never a time."""

from __future__ import annotations

import pytest
import torch

from sparseflow.errors import ArgumentError
from sparseflow.runtime import timing
from sparseflow.runtime.dispatch import (
    MEASURED_M,
    Table,
    calibrate,
    cpu_identity,
    fill_cpu_table,
    measure_cpu,
    measurement,
    processor_load,
)
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning
from sparseflow.runtime.dispatch.processor_load import LoadMeter
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.robust import AGREE, Settled
from sparseflow.runtime.thread_count import thread_count

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.runtime.dispatch.cpu_table.DispatchTableWarning")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure_cpu, "MAX_REPS", AGREE)
    monkeypatch.setattr(measure_cpu, "MAX_COPIES", 3)
    fill_cpu_table.forget()


@pytest.fixture
def free(monkeypatch):
    """The cores that others leave of two; [2] at first. All times agree, and each M's with the others'."""
    left = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(LoadMeter, "free", lambda self, threads: min(threads, left[0]))
    settled = Settled((1e-5, 2e-5, 5e-6), 0.0, 9)
    monkeypatch.setattr(measure_cpu._Bench, "_settle", lambda self, m, threads: settled)
    return left


@pytest.fixture
def idle(free):
    return free


@pytest.fixture
def crowd(free):
    free[0] = 1
    return free


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_is_measured_at_every_m(dtype):
    rows = measure_cpu.measure_layer(24, 33, dtype)
    assert tuple(row.m for row in rows) == MEASURED_M
    for row in rows:
        assert (row.dtype, row.n, row.k, row.rows) == (str(dtype).removeprefix("torch."), 24, 33, 24)
        assert row.reps >= AGREE
        assert measurement.Measurement.from_dict(row.to_dict()) == row


def test_a_large_layer_is_measured_on_a_slice_and_says_so(monkeypatch):
    seen = []
    monkeypatch.setattr(measure_cpu, "MIN_ROWS", 8)
    monkeypatch.setattr(measure_cpu, "MAX_ROWS", 64)
    monkeypatch.setattr(measure_cpu, "MAX_WORK", 4 * 16 * 32)

    def stopwatch(sides, _):
        seen.append(sides[0](0).shape)
        return lambda turn: [1e-6] * 3

    monkeypatch.setattr(measure_cpu, "Turns", stopwatch)
    monkeypatch.setattr(LoadMeter, "free", lambda self, threads: threads)
    rows = measure_cpu.measure_layer(640, 16, torch.float32, (1, 4, 8, 1024))
    assert [row.rows for row in rows] == [64, 32, 16, 8]
    assert [tuple(shape) for shape in seen] == [(1, 64), (4, 32), (8, 16), (1024, 8)]
    assert [dict(row.sparse_us)["cpu"] for row in rows] == pytest.approx([10, 20, 40, 80])


@pytest.mark.parametrize("format", ["2:4", "4:6", "6:8"])
def test_all_sides_compute_the_same_product(format):
    weights = measure_cpu._Weights.random(40, 50, torch.float32, format)
    x = torch.randn(7, 50)
    for turn in range(4):
        dense, unpacked, cpu = (side(turn) for side in weights.sides(x, 24, [Choice("cpu")]))
        assert dense.shape == (7, 24)
        torch.testing.assert_close(cpu, dense, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(unpacked, dense, rtol=1e-4, atol=1e-4)


def test_copies_exceed_the_last_level_cache_together(monkeypatch):
    monkeypatch.setattr(measure_cpu, "last_level_cache_bytes", lambda: 50_000)
    monkeypatch.setattr(measure_cpu, "MAX_COPIES", 64)
    weights = measure_cpu._Weights.random(64, 128, torch.float16, "2:4")
    assert sum(values.nbytes + positions.nbytes for values, positions in weights.packed) > 2 * 50_000
    assert len({values.data_ptr() for values, _ in weights.packed}) == len(weights.dense)


@pytest.mark.parametrize(
    ("n", "k", "dtype"), [(0, 8, torch.float32), (8, 0, torch.float32), (8, 8, torch.float64)]
)
def test_what_cannot_be_measured_is_refused(n, k, dtype):
    with pytest.raises(ArgumentError, match="needs sizes from 1 and a supported dtype"):
        calibrate([(n, k)], dtype)


@pytest.fixture
def calls(monkeypatch):
    """What calibration asks to be measured: (N, K, the M's)."""
    seen = []

    def measure_layer(n, k, dtype, ms, **rest):
        seen.append((n, k, ms))
        return measure_cpu.measure_layer(n, k, dtype, ms, **rest)

    monkeypatch.setattr(fill_cpu_table, "measure_layer", measure_layer)
    return seen


def test_each_format_has_a_table_of_its_own(calls, idle):
    for format in ("6:8", "2:4", "6:8"):
        calibrate([(24, 16)], torch.float32, format=format)
    assert len(calls) == 2
    for format in ("6:8", "2:4"):
        assert len(Table(format=format).layer("float32", 24, 16)) == len(MEASURED_M)
    assert Table(format="4:6").layer("float32", 24, 16) == []


def test_calibration_measures_only_what_the_table_lacks(calls, idle):
    policies = calibrate([(24, 16), (12, 16), (24, 16)], torch.float32)
    assert list(policies) == [(24, 16), (12, 16)]
    assert calls == [(24, 16, list(MEASURED_M)), (12, 16, list(MEASURED_M))]
    again = calibrate([(12, 16), (24, 16)], torch.float32)
    assert len(calls) == 2
    assert {shape: str(policy) for shape, policy in again.items()} == {s: str(p) for s, p in policies.items()}

    known = Table()
    partial = Table(folder=known.path.parent / "other")
    partial.add(row for row in known.layer("float32", 12, 16) if row.m != 64)
    calibrate([(12, 16)], torch.float32, table=partial)
    assert calls[2:] == [(12, 16, [64])]
    calibrate([(12, 16)], torch.bfloat16)
    assert len(calls) == 4


def test_progress_counts_every_point(idle):
    steps = []
    calibrate([(8, 8), (4, 8)], torch.float32, progress=lambda *step: steps.append(step))
    assert [done for done, _, text in steps if "M=" in text] == list(range(1, 2 * len(MEASURED_M) + 1))
    assert {total for _, total, _ in steps} == {2 * len(MEASURED_M)}
    assert steps[1][2] == "8×8 float32, M=1"


def test_each_shape_is_saved_as_soon_as_it_is_measured(idle):
    def interrupt(done, total, text):
        if "4×8" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate([(8, 8), (4, 8)], torch.float32, progress=interrupt)
    assert len(Table().layer("float32", 8, 8)) == len(MEASURED_M)
    assert Table().layer("float32", 4, 8) == []


def test_points_measured_in_a_crowd_are_reported_and_measured_again_when_it_is_gone(crowd, calls):
    with pytest.warns(DispatchTableWarning, match="11 of 11 points were measured while other processes"):
        calibrate([(8, 8)], torch.float32)
    assert all(row.crowded and row.threads == 1 for row in Table().layer("float32", 8, 8))
    calibrate([(8, 8)], torch.float32)
    assert len(calls) == 1
    fill_cpu_table.forget()  # another process
    calibrate([(8, 8)], torch.float32)
    assert len(calls) == 1  # the crowd is still there
    crowd[0] = 2
    calibrate([(8, 8)], torch.float32)
    assert len(calls) == 2
    assert all(not row.crowded and row.threads == 2 for row in Table().layer("float32", 8, 8))


def test_a_crowd_that_leaves_is_noticed_after_the_other_points(crowd, calls):
    steps = []

    def leave(*step):
        steps.append(step)
        crowd[0] = 2 if "4×8" in step[2] else crowd[0]

    calibrate([(8, 8), (4, 8)], torch.float32, progress=leave)
    assert calls == [(8, 8, list(MEASURED_M)), (4, 8, list(MEASURED_M)), (8, 8, list(MEASURED_M))]
    assert not any(row.crowded for row in Table().layer("float32", 8, 8))
    assert steps[-1][:2] == (3 * len(MEASURED_M), 3 * len(MEASURED_M))


def test_others_that_come_meanwhile_have_the_point_measured_without_their_core(monkeypatch, free):
    used = []

    def settle(self, m, threads):
        used.append(threads)
        free[0] = 1
        return Settled((1e-5, 2e-5, 5e-6), 0.0, 9)

    monkeypatch.setattr(measure_cpu._Bench, "_settle", settle)
    (row,) = measure_cpu.measure_layer(8, 8, torch.float32, [4])
    assert used == [2, 1]
    assert (row.crowded, row.threads) == (True, 1)
    assert row.dense_us == pytest.approx(5.0)  # two threads would take half as long


def test_points_that_do_not_settle_are_tried_again_and_the_best_try_is_kept(monkeypatch, free):
    tried = []

    def settle(self, m, threads):
        tried.append(m)
        # M = 4 settles the second time; M = 16 never does.
        spread = 0.5 if m == 16 or (m == 4 and tried.count(4) < 2) else 0.0
        return Settled((1e-5, 2e-5, 5e-6 + 1e-6 * tried.count(m)), spread, 9)

    monkeypatch.setattr(measure_cpu._Bench, "_settle", settle)
    calibrate([(8, 8)], torch.float32)
    assert tried == [*MEASURED_M, 4, 16, 16]
    rows = {row.m: row for row in Table().layer("float32", 8, 8)}
    assert (rows[4].tries, rows[4].settled, rows[16].tries, rows[16].settled) == (2, True, 3, False)
    assert dict(rows[16].sparse_us)["cpu"] == pytest.approx(6.0)
    fill_cpu_table.forget()
    calibrate([(8, 8)], torch.float32)
    assert len(tried) == len(MEASURED_M) + 3  # it stands


def test_so_many_threads_run_and_no_fewer_afterwards():
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert measure_cpu.stopwatch(1) is timing.once_on_this_thread
    assert measure_cpu.stopwatch(2) is timing.once


@pytest.mark.parametrize(
    ("busy", "own", "threads", "free"),
    [
        (2.0, 2.0, 2, 2),  # all the work is ours
        (4.0, 2.0, 2, 1),  # another process has a core of the two
        (4.0, 2.0, 1, 1),  # …but one is all we need
        (2.2, 2.0, 2, 2),  # a little is normal
        (9.0, 2.0, 2, 1),  # one thread always runs
        (0.0, 2.0, 2, 2),  # the system doesn't tell
    ],
)
def test_the_load_of_others_is_what_is_busy_beyond_us(monkeypatch, busy, own, threads, free):
    monkeypatch.setattr(processor_load.os, "sched_getaffinity", lambda pid: {0, 1})
    samples = iter([(10.0, 100.0, 1.0), *[(12.0, 100.0 + busy, 1.0 + own)] * 2])
    monkeypatch.setattr(processor_load, "_sample", lambda: next(samples))
    meter = LoadMeter()
    assert meter.free(threads) == free
    assert meter.crowded(threads) is (free < threads)


def test_more_threads_than_cores_are_no_crowd(monkeypatch):
    monkeypatch.setattr(processor_load.os, "sched_getaffinity", lambda pid: {0})
    samples = iter([(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2.0, 2.0, 1.0)])
    monkeypatch.setattr(processor_load, "_sample", lambda: next(samples))
    meter = LoadMeter()
    assert (meter.free(2), meter.free(2)) == (2, 1)


def test_what_the_system_does_grows_with_its_cores(monkeypatch):
    monkeypatch.setattr(processor_load.os, "sched_getaffinity", lambda pid: set(range(64)))
    samples = iter([(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 4.0, 0.0)])
    monkeypatch.setattr(processor_load, "_sample", lambda: next(samples))
    meter = LoadMeter()
    assert (meter.free(64), meter.free(64)) == (64, 62)


def test_moments_share_an_answer(monkeypatch):
    monkeypatch.setattr(processor_load.os, "sched_getaffinity", lambda pid: {0, 1})
    samples = iter([(0.0, 0.0, 0.0), (0.01, 0.01, 0.0), (0.2, 0.2, 0.0), (0.21, 0.2, 0.0), (0.4, 0.2, 0.0)])
    monkeypatch.setattr(processor_load, "_sample", lambda: next(samples))
    meter = LoadMeter()
    assert [meter.free(2) for _ in range(4)] == [2, 1, 1, 2]


def test_busy_time_is_read_for_the_cores_we_may_use(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    rows = [
        "cpu  9 9 9 9 9 9 9 9 9 9",
        "cpu0 100 1 20 5000 300 2 3 4 0 0",
        "cpu1 7 0 0 0 0 0 0 0 0 0",
        "intr 4",
    ]
    stat.write_text("\n".join(rows))
    monkeypatch.setattr(processor_load, "STAT", stat)
    monkeypatch.setattr(processor_load.os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(processor_load.os, "sysconf", lambda name: 10)
    assert processor_load._busy_seconds() == 13.0
    stat.write_text("cpu0 1 2\n")
    assert processor_load._busy_seconds() == 0.0


@pytest.mark.parametrize(
    ("text", "size"), [("32K", 32 << 10), ("33792K", 33792 << 10), ("1M", 1 << 20), ("?", 0)]
)
def test_cache_sizes_are_read_from_the_system(tmp_path, text, size):
    (tmp_path / "size").write_text(text + "\n")
    assert cpu_identity._cache_bytes(tmp_path / "size") == size
    assert cpu_identity._cache_bytes(tmp_path / "missing") == 0
