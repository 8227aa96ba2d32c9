"""Measuring and calibrating: small layers, real kernels; only the bookkeeping is asserted, never a time."""

from __future__ import annotations

import pytest
import torch

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch import (
    MEASURED_M,
    Table,
    calibrate,
    calibration,
    load,
    machine,
    measure,
    measurement,
)
from sparseflow.runtime.dispatch.load import LoadMeter
from sparseflow.runtime.dispatch.table import DispatchTableWarning
from sparseflow.runtime.kernels import Choice

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.runtime.dispatch.table.DispatchTableWarning")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS_A_POINT", 0.0)
    monkeypatch.setattr(measure, "MAX_COPIES", 3)
    monkeypatch.setattr(calibration, "_MEASURED_HERE", set())


@pytest.fixture
def idle(monkeypatch):
    monkeypatch.setattr(LoadMeter, "crowded", lambda self, threads: False)


@pytest.fixture
def crowd(monkeypatch):
    monkeypatch.setattr(LoadMeter, "crowded", lambda self, threads: True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_is_measured_at_every_m(dtype):
    rows = measure.measure_layer(24, 33, dtype)
    assert tuple(row.m for row in rows) == MEASURED_M
    for row in rows:
        assert (row.dtype, row.n, row.k, row.rows) == (str(dtype).removeprefix("torch."), 24, 33, 24)
        assert row.reps >= measure.MIN_REPS
        assert measurement.Measurement.from_dict(row.to_dict()) == row


def test_a_large_layer_is_measured_on_a_slice_and_says_so(monkeypatch):
    seen = []
    monkeypatch.setattr(measure, "MIN_ROWS", 8)
    monkeypatch.setattr(measure, "MAX_ROWS", 64)
    monkeypatch.setattr(measure, "MAX_WORK", 4 * 16 * 32)

    def stopwatch(sides, **limits):
        seen.append(sides[0](0).shape)
        return [[1e-6]] * 3

    monkeypatch.setattr(measure, "interleaved", stopwatch)
    rows = measure.measure_layer(640, 16, torch.float32, (1, 4, 8, 1024))
    assert [row.rows for row in rows] == [64, 32, 16, 8]
    assert [tuple(shape) for shape in seen] == [(1, 64), (4, 32), (8, 16), (1024, 8)]
    assert [dict(row.sparse_us)["cpu"] for row in rows] == pytest.approx([10, 20, 40, 80])


def test_all_sides_compute_the_same_product():
    weights = measure._Weights.random(40, 50, torch.float32)
    x = torch.randn(7, 50)
    for turn in range(4):
        dense, unpacked, cpu = (side(turn) for side in weights.sides(x, 24, [Choice("cpu")]))
        assert dense.shape == (7, 24)
        torch.testing.assert_close(cpu, dense, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(unpacked, dense, rtol=1e-4, atol=1e-4)


def test_copies_exceed_the_last_level_cache_together(monkeypatch):
    monkeypatch.setattr(measure, "last_level_cache_bytes", lambda: 50_000)
    monkeypatch.setattr(measure, "MAX_COPIES", 64)
    weights = measure._Weights.random(64, 128, torch.float16)
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
        return measure.measure_layer(n, k, dtype, ms, **rest)

    monkeypatch.setattr(calibration, "measure_layer", measure_layer)
    return seen


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


def test_points_measured_in_a_crowd_are_reported_and_measured_again_later(monkeypatch, crowd, calls):
    with pytest.warns(DispatchTableWarning, match="11 of 11 points were measured while other processes"):
        calibrate([(8, 8)], torch.float32)
    calibrate([(8, 8)], torch.float32)
    assert len(calls) == 1
    monkeypatch.setattr(calibration, "_MEASURED_HERE", set())  # another process
    monkeypatch.setattr(LoadMeter, "crowded", lambda self, threads: False)
    calibrate([(8, 8)], torch.float32)
    assert len(calls) == 2
    assert not any(row.crowded for row in Table().layer("float32", 8, 8))


@pytest.mark.parametrize(
    ("busy", "own", "threads", "crowded"),
    [
        (2.0, 2.0, 2, False),  # all the work is ours
        (4.0, 2.0, 2, True),  # another process has a core of the two
        (4.0, 2.0, 1, False),  # …but one is all we need
        (2.2, 2.0, 2, False),  # a little is normal
        (0.0, 2.0, 2, False),  # the system doesn't tell
    ],
)
def test_the_load_of_others_is_what_is_busy_beyond_us(monkeypatch, busy, own, threads, crowded):
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0, 1})
    samples = iter([(10.0, 100.0, 1.0), (12.0, 100.0 + busy, 1.0 + own)])
    monkeypatch.setattr(load, "_sample", lambda: next(samples))
    assert LoadMeter().crowded(threads) is crowded


def test_busy_time_is_read_for_the_cores_we_may_use(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    rows = [
        "cpu  9 9 9 9 9 9 9 9 9 9",
        "cpu0 100 1 20 5000 300 2 3 4 0 0",
        "cpu1 7 0 0 0 0 0 0 0 0 0",
        "intr 4",
    ]
    stat.write_text("\n".join(rows))
    monkeypatch.setattr(load, "STAT", stat)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(load.os, "sysconf", lambda name: 10)
    assert load._busy_seconds() == 13.0
    stat.write_text("cpu0 1 2\n")
    assert load._busy_seconds() == 0.0


@pytest.mark.parametrize(
    ("text", "size"), [("32K", 32 << 10), ("33792K", 33792 << 10), ("1M", 1 << 20), ("?", 0)]
)
def test_cache_sizes_are_read_from_the_system(tmp_path, text, size):
    (tmp_path / "size").write_text(text + "\n")
    assert machine._cache_bytes(tmp_path / "size") == size
    assert machine._cache_bytes(tmp_path / "missing") == 0
