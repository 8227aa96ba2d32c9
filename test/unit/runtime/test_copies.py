"""Memory mode auto: no measured M loses, copies are kept where they pay and fit, reasons have the figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.runtime.dispatch import MEASURED_M, Measurement, Policy, Timed, choose, choose_by_thresholds
from sparseflow.runtime.dispatch.call import call_us
from sparseflow.runtime.dispatch.policy import TOLERANCE
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.products import copies, which
from sparseflow.runtime.products.copies import COPY_PAYS, SHARE, Room, settle
from sparseflow.runtime.tuning import gpu_table as tables
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.runtime.tuning.policies import timed

CPU = torch.device("cpu")
OURS, DENSE = Choice("cpu"), Choice("dense")
LT = Choice("cusparselt", 3)
MS = (1, 2, 16, 64, 1024)


def point(m, sparse, unpacked, dense=100.0):
    return Measurement("float32", 64, 64, m, dense, unpacked, (("cpu", sparse),), 64, 9, False)


def layer(**times):
    """Measurements from m1=(sparse, unpacked), m8=(…)…, with dense at 100."""
    return [point(int(name[1:]), *pair) for name, pair in times.items()]


def roomy(left=1 << 40):
    return Room(lambda _: int(left / SHARE))


def settled(policy, *, nbytes=1, room=None, packed=False):
    return settle({(64, 64): policy}, {(64, 64): nbytes}, CPU, room or roomy(), packed=packed)[64, 64]


# What was recorded, and what becomes of the layer: a policy packed alone, one with its copy, or a reason.
CASES = {
    "wins everywhere": (layer(m1=(50, 130), m64=(80, 110)), "1:cpu", False),
    "decompressing is within the tolerance": (layer(m1=(50, 130), m64=(140, 101.5)), "1:cpu,", False),
    "loses at one M, wins at another": (layer(m1=(50, 130), m64=(140, 120)), "1:cpu,", True),
    "as little as pays for a copy": (layer(m1=(90.9, 130), m64=(140, 120)), "1:cpu,", True),
    "gains too little for a copy": (layer(m1=(95, 130), m64=(140, 120)), "would gain at most 1.05×", None),
    "never wins": (layer(m1=(150, 130), m64=(140, 120)), "no faster than dense at any", None),
    "was not measured at M = 1": (layer(m8=(50, 130), m64=(60, 120)), "1:dense,8:cpu", True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_recorded_layer(name):
    points, text, kept = CASES[name]
    found = settled(choose(points, "auto"))
    if kept is None:
        assert isinstance(found, str)
        assert text in found
        return
    assert str(found).startswith(text)
    assert found.keeps_dense is kept
    assert found.losing == ()


def test_a_crowd_keeps_no_way_that_loses_beside_a_copy():
    points = [
        dataclasses.replace(p, crowded=True) for p in layer(m1=(50, 130), m64=(104, 120), m256=(104, 120))
    ]
    found = settled(choose(points, "auto"))
    assert found.keeps_dense
    assert [found.choice(m) for m in (1, 64, 256)] == [OURS, DENSE, DENSE]
    assert found.losing == ()
    # Without a copy the sparse way is left alone, as what it costs may be the crowd's.
    assert str(choose(points, "compressed")) == "1:cpu"


def test_a_reason_has_the_figures_that_decided():
    points = layer(m1=(95, 130), m16=(97, 120), m64=(140, 125))
    assert settled(choose(points, "auto")) == (
        "stays dense: packed alone it runs at 0.80× at M=64, and a dense copy beside it would gain at most "
        "1.05×, at M=1, less than the 1.10× that its bytes are worth"
    )


def test_a_layer_that_is_too_small_for_a_call_stays_dense():
    """64×64 on a CPU: F.linear takes 2.4 µs for one row, our operator 5 µs more whatever it runs."""
    points = [point(1, 9.0, 9.5, dense=2.4), point(64, 5.0, 13.0, dense=7.5)]
    found = settled(choose(points, "auto", call_us=5.0))
    assert found == (
        "stays dense: its call costs too much, 0.32× at M=1 even with a dense copy; at best 1.50×, at M=64"
    )
    large = [dataclasses.replace(p, dense_us=500 * p.dense_us, unpacked_us=600 * p.dense_us) for p in points]
    assert settled(choose(large, "auto", call_us=5.0)).keeps_dense is False


def test_a_call_of_the_operator_costs_something_and_is_measured_once():
    assert 0.0 <= call_us() < 1000.0
    assert call_us() is call_us()


def test_a_layer_that_is_packed_anyway_keeps_its_copy_however_little_it_buys():
    for points in (layer(m1=(95, 130), m64=(140, 120)), layer(m1=(150, 130), m64=(140, 120))):
        policy = choose(points, "auto")
        found = settled(policy, packed=True)
        assert found.keeps_dense
        assert found.losing == ()
        alone = settled(policy, packed=True, room=roomy(0))
        assert alone == choose(points, "compressed")
        assert not alone.keeps_dense


def test_copies_go_to_what_gains_most_and_together_take_no_more_than_there_is():
    gains = {(1, 8): 1.2, (2, 8): 2.0, (3, 8): 1.5, (4, 8): 1.05}
    found = {
        shape: choose(layer(m1=(100 / gain, 130), m64=(140, 120)), "auto") for shape, gain in gains.items()
    }
    found[5, 8] = choose(layer(m1=(50, 130), m64=(40, 110)), "auto")
    found[6, 8] = "no table has it"
    nbytes = dict.fromkeys(found, 100)
    for left, kept in (
        (0, []),
        (99, []),
        (100, [(2, 8)]),
        (299, [(2, 8), (3, 8)]),
        (300, [(1, 8), (2, 8), (3, 8)]),
    ):
        room = roomy(left)
        result = settle(found, nbytes, CPU, room, packed=False)
        assert [s for s, p in result.items() if isinstance(p, Policy) and p.keeps_dense] == kept
        assert room.left(CPU) == left - 100 * len(kept)
        assert str(result[5, 8]) == "1:cpu"
        assert result[6, 8] == "no table has it"
        for shape in {(1, 8), (2, 8), (3, 8)} - set(kept):
            assert "dense copies of all its kind, 0.0 MB, don't fit" in result[shape]
        assert "less than the 1.10×" in result[4, 8]


def test_all_layers_of_a_shape_count(monkeypatch):
    """32 layers of 1 MB don't fit what 31 do."""
    monkeypatch.setattr(
        "sparseflow.runtime.dispatch.fill_cpu_table.calibrate",
        lambda shapes, *_, **__: {s: choose(layer(m1=(50, 130), m64=(140, 120)), "auto") for s in shapes},
    )
    for left, kept in ((32 << 20, True), ((32 << 20) - 1, False)):
        room = roomy(left)
        found = which.policies([(512, 512)] * 32, torch.float32, CPU, room=room)[512, 512]
        assert isinstance(found, Policy) is kept
    anyway = which.policies([(512, 512)] * 32, torch.float32, CPU, room=roomy(0), packed=True)[512, 512]
    assert not anyway.keeps_dense


def test_free_memory_is_read_here_and_elsewhere_has_no_end(monkeypatch):
    assert 0 < copies.free_bytes(CPU) < 1 << 50
    monkeypatch.setattr(copies, "_lines", lambda path: [])
    assert copies.free_bytes(CPU) > 1 << 60
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:    1000 kB"],
        "/sys/fs/cgroup/memory.max": ["500000"],
        "/sys/fs/cgroup/memory.current": ["100000"],
    }
    monkeypatch.setattr(copies, "_lines", files.__getitem__)
    assert copies.free_bytes(CPU) == 400_000
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert copies.free_bytes(CPU) == 1_024_000


def test_a_lead_that_shrinks_ends_where_it_would_be_gone():
    """1.47× at 512 rows, 1.16× at 1024: gone at about 1520, and 0.90× was measured at 2048."""
    points = [point(1, 50, 130), point(512, 100 / 1.47, 111), point(1024, 100 / 1.16, 103)]
    kept = choose(points, "auto")
    assert (str(kept), kept.losing) == ("1:cpu,1522:dense", ())
    assert str(choose(points, "compressed")) == str(choose(points, "fast")) == "1:cpu"
    steady = [*points[:2], point(1024, 100 / 1.47, 111)]
    growing = [*points[:2], point(1024, 100 / 1.6, 111)]
    assert str(choose(steady, "auto")) == str(choose(growing, "auto")) == "1:cpu"
    slowly = [*points[:2], point(1024, 100 / 1.45, 111)]
    assert str(choose(slowly, "auto")) == "1:cpu", "beyond any M"
    late = dataclasses.replace(points[1], sparse_us=())
    assert str(choose([points[0], late, points[2]], "auto")) == "1:cpu,2:dense,1024:cpu", "not timed before"


times = st.floats(1.0, 1e6)
measured = st.lists(
    st.tuples(st.sampled_from(MEASURED_M), times, times, times), min_size=1, unique_by=lambda row: row[0]
)
near = st.floats(90.0, 110.0)
close = st.lists(
    st.tuples(st.sampled_from(MEASURED_M), near, near, near), min_size=1, unique_by=lambda row: row[0]
)


@given(measured | close, st.floats(0.0, 20.0), st.booleans())
def test_no_measured_m_on_a_cpu_is_slower_than_dense(rows, call, fits):
    points = [point(m, sparse, unpacked, dense) for m, sparse, unpacked, dense in rows]
    found = settled(choose(points, "auto", call_us=call), room=roomy() if fits else roomy(0))
    if isinstance(found, str):
        return
    for p in points:
        choice = found.choice(p.m)
        dense = p.dense_us + call if found.keeps_dense else p.unpacked_us
        assert (dense if choice.is_dense else p.us(choice)) <= TOLERANCE * p.dense_us * (1 + 1e-9)
    assert not found.keeps_dense or (fits and found.gain[0] >= COPY_PAYS)


@given(measured | close, st.booleans())
def test_no_measured_m_on_a_gpu_is_slower_than_dense(rows, fits):
    points = [Timed(m, dense, unpacked, {LT: sparse}) for m, sparse, unpacked, dense in rows]
    found = settled(choose_by_thresholds(points, "auto"), room=roomy() if fits else roomy(0))
    if isinstance(found, str):
        return
    for p in points:
        choice = found.choice(p.m)
        dense = p.dense if found.keeps_dense else p.unpacked
        assert (dense if choice == DENSE else p.sparse[choice]) <= TOLERANCE * p.dense * (1 + 1e-9)
    assert not found.keeps_dense or (fits and found.gain[0] >= COPY_PAYS)
    first = min(p.m for p in points)
    assert first == 1 or (found.keeps_dense and found.choice(1) == DENSE)


def test_no_shape_of_a_shipped_table_loses_at_a_tuned_m():
    layers = {}
    for path in (Path(tables.__file__).parent / "tables").glob("*.json"):
        for row in json.loads(path.read_text())["rows"]:
            found = TunedPoint.from_dict(row)
            layers.setdefault((path, found.dtype, found.n, found.k), []).append(timed(found))
    policies = [settled(choose_by_thresholds(points, "auto")) for points in layers.values()]
    kept = [policy for policy in policies if isinstance(policy, Policy)]
    assert len(kept) > 0.9 * len(policies) > 100
    assert [policy for policy in kept if policy.losing] == []
    assert 0 < sum(policy.keeps_dense for policy in kept) < 0.5 * len(kept)
