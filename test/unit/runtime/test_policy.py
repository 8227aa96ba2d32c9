"""Policies: what measurements justify, and their text and integer forms."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch import Measurement, Policy, choose
from sparseflow.runtime.dispatch.policy import TOLERANCE
from sparseflow.runtime.kernels import Choice

CPU, DENSE = Choice("cpu"), Choice("dense")


def point(m, cpu, unpacked, dense=100.0):
    """A measurement by its times."""
    return Measurement("float32", 64, 64, m, dense, unpacked, (("cpu", cpu),), 64, 9, False)


def layer(**times):
    """Measurements from m1=(cpu, unpacked), m8=(…)…, with dense at 100."""
    return [point(int(name[1:]), *pair) for name, pair in times.items()]


def test_one_backend_that_always_wins_is_one_range():
    policy = choose(layer(m1=(50, 110), m4=(40, 110), m16=(80, 105)))
    assert (str(policy), policy.to_ints()) == ("1:cpu", [1, CPU.code])
    (only,) = policy.ranges
    assert (only.m_max, only.speedup, only.best) == (None, 100 / 80, 2.5)
    assert policy.pays
    assert policy.losing == ()


def test_the_order_of_measurements_does_not_matter():
    rows = layer(m1=(50, 110), m4=(60, 110), m16=(130, 101), m64=(150, 101))
    policies = {str(choose(order)) for order in itertools.permutations(rows)}
    assert policies == {str(choose(rows))}


def test_the_switch_is_at_the_geometric_midpoint_where_both_win_alike():
    policy = choose(layer(m16=(50, 100), m256=(100, 50)))
    assert str(policy) == "1:cpu,64:dense"


def test_the_switch_is_nearer_to_the_side_that_wins_by_less():
    to_dense = choose(layer(m16=(90, 100), m256=(100, 50)))
    assert 16 < to_dense.ranges[1].m_min < 64
    to_cpu = choose(layer(m16=(100, 50), m256=(90, 100)))
    assert 64 < to_cpu.ranges[1].m_min <= 256


def test_interpolated_times_cross_at_the_switch():
    # Times that are powers of M: exactly what the interpolation assumes.
    def cpu(m):
        return 10 * m**0.9

    def unpacked(m):
        return 60 * m**0.4

    crossing = 6 ** (1 / 0.5)
    policy = choose([point(m, cpu(m), unpacked(m), dense=1000) for m in (1, 8, 64, 512)])
    assert policy.ranges[1].m_min == math.ceil(crossing)


def test_neighbouring_points_leave_no_room_for_interpolation():
    assert str(choose(layer(m1=(50, 100), m2=(100, 50)))) == "1:cpu,2:dense"


@pytest.mark.parametrize(
    ("cpu", "found", "kept"),
    [
        (98, {"spread": 0.0}, False),
        (98, {"spread": 0.05}, True),
        (98, {"spread": 0.5}, True),
        (101, {"spread": 0.5}, False),  # what times that far apart say can't excuse more than 6%
        (103, {"crowded": True}, False),
        (99, {"crowded": True}, True),
    ],
)
def test_what_the_times_leave_open_makes_no_range(cpu, found, kept):
    first, last = layer(m1=(50, 110), m8=(cpu, 94))
    policy = choose([first, dataclasses.replace(last, **found)])
    assert (len(policy.ranges) == 1) is kept


def test_losing_by_more_than_two_percent_is_left_open_by_a_crowd_alone():
    first, last = layer(m1=(50, 110), m8=(104, 100))
    assert len(choose([first, dataclasses.replace(last, spread=0.05)]).ranges) == 2
    assert len(choose([first, dataclasses.replace(last, crowded=True)]).ranges) == 1


def test_noise_within_two_percent_makes_no_ranges():
    noisy = layer(m1=(50, 110), m2=(98, 97), m4=(97, 98), m8=(98.5, 97), m16=(60, 90))
    assert str(choose(noisy)) == "1:cpu"


def test_a_backend_is_not_kept_where_it_loses_more_than_two_percent_to_dense():
    # 1% between the two, but only one of them is within 2% of dense.
    policy = choose(layer(m1=(50, 110), m64=(102.5, 101.5), m512=(102.5, 101.5)))
    assert [entry.choice for entry in policy.ranges] == [CPU, DENSE]
    assert policy.losing == ()


def test_a_layer_slower_at_every_m_does_not_pay_and_says_so():
    policy = choose(layer(m1=(125, 500), m32=(200, 110), m1024=(300, 105)))
    assert not policy.pays
    assert policy.why() == ("no faster than dense at any measured M from 1 to 1024: at best 0.95×, at M=1024")


def test_a_layer_that_pays_says_where_and_by_how_much():
    policy = choose(layer(m1=(50, 300), m4=(40, 200), m64=(120, 105)))
    assert policy.pays
    assert policy.why().startswith("measured against dense: M=1–")
    assert "cpu 2.00×–2.50×" in policy.why()
    assert "dense 0.95×" in policy.why()
    assert [entry.choice for entry in policy.losing] == [DENSE]


times = st.floats(1.0, 1e6)
measured = st.lists(
    st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]), times, times, times),
    min_size=1,
    unique_by=lambda row: row[0],
).map(lambda rows: [point(m, cpu, unpacked, dense) for m, cpu, unpacked, dense in rows])


@given(measured)
def test_at_measured_points_the_choice_is_never_far_from_the_best(rows):
    policy = choose(rows)
    for row in rows:
        chosen, best = row.us(policy.choice(row.m)), min(row.us(CPU), row.unpacked_us)
        assert chosen <= TOLERANCE * best
        if best <= row.dense_us * TOLERANCE:
            assert chosen <= row.dense_us * TOLERANCE


@given(measured)
def test_ranges_cover_every_m_once_and_survive_text_and_integers(rows):
    policy = choose(rows)
    assert policy.ranges[0].m_min == 1
    assert policy.ranges[-1].m_max is None
    for left, right in itertools.pairwise(policy.ranges):
        assert left.m_max + 1 == right.m_min
        assert left.choice != right.choice
    for again in (Policy.parse(str(policy)), Policy.from_ints(policy.to_ints())):
        assert str(again) == str(policy)
        assert again.to_ints() == policy.to_ints()
        assert all(again.choice(m) == policy.choice(m) for m in (0, 1, 2, 3, 31, 33, 700, 1024, 10**6))


@given(measured)
def test_every_range_reports_figures_that_were_measured(rows):
    for entry in choose(rows).ranges:
        speedups = [row.speedup(entry.choice) for row in rows]
        assert entry.speedup in speedups
        assert entry.best in speedups


@given(measured, st.integers(0, 2**31))
def test_scaling_all_times_changes_nothing(rows, seed):
    scale = random.Random(seed).choice([0.25, 4.0, 1024.0])
    scaled = [point(r.m, r.us(CPU) * scale, r.unpacked_us * scale, r.dense_us * scale) for r in rows]
    assert str(choose(scaled)) == str(choose(rows))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [point(1, 1, 1), point(1, 2, 2)],
        [point(1, 1, 1), dataclasses.replace(point(2, 1, 1), dtype="float16")],
    ],
)
def test_measurements_of_no_or_several_layers_are_refused(rows):
    with pytest.raises(ArgumentError, match="of one layer, each M once"):
        choose(rows)


def test_the_empty_policy_always_runs_the_sparse_kernel():
    empty = Policy.parse("")
    assert (str(empty), empty.to_ints(), empty.ranges) == ("", [], ())
    assert empty.choice(1) == empty.choice(4096) == CPU
    assert Policy.from_ints([]) == empty
    assert not empty.pays
    assert empty.why() == "not measured on this machine"


def test_parsed_ranges():
    policy = Policy.parse("1:cpu,512:dense")
    assert policy.to_ints() == [1, 1, 512, 0]
    assert [(r.m_min, r.m_max, r.choice, r.speedup) for r in policy.ranges] == [
        (1, 511, CPU, None),
        (512, None, DENSE, None),
    ]
    assert policy.choice(511) == CPU
    assert policy.choice(512) == DENSE


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cpu", "'cpu' is not of the form M:kernel"),
        ("1:cpu,", "'' is not of the form"),
        ("x:cpu", "'x:cpu' is not of the form"),
        ("-1:cpu", "'-1:cpu' is not of the form"),
        ("1:cpu, 4:dense", "' 4:dense' is not of the form"),
        ("¹:cpu", "is not of the form"),
        ("1:gpu", "unknown kernel 'gpu'; known: dense, cpu, cusparselt, skinny"),
        ("1:CPU", "unknown kernel 'CPU'"),
        ("2:cpu", "the first range must start at M=1, not 2"),
        ("1:cpu,8:dense,8:cpu", "M must ascend, but 8 follows 8"),
        ("1:cpu,8:dense,4:cpu", "M must ascend, but 4 follows 8"),
    ],
)
def test_malformed_text_is_refused_with_its_fault(text, rule):
    with pytest.raises(ArgumentError, match=rule) as caught:
        Policy.parse(text)
    assert repr(text) in str(caught.value)
    assert "1:cpu,512:dense" in caught.value.remedy


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ([1], "pairs"),
        ([1, 7], "unknown kernel code 7"),
        ([0, 1], "must start at M=1"),
        ([1, 1, 1, 0], "must ascend"),
    ],
)
def test_malformed_integers_are_refused(numbers, rule):
    with pytest.raises(ArgumentError, match=rule):
        Policy.from_ints(numbers)


def test_a_policy_above_some_rows_has_the_figures_measured_there():
    speeds = {1: 1.5, 8: 1.2, 32: 0.9, 64: 1.0}
    starts = [(1, CPU), (40, DENSE)]
    policy = Policy.of(starts, speeds, lambda m, choice: speeds[m])
    assert [(r.m_min, r.m_max, r.speedup) for r in policy.above(4)] == [(5, 39, 0.9), (40, None, 1.0)]
    assert [(r.m_min, r.m_max) for r in policy.above(39)] == [(40, None)]
    assert policy.pays
    assert policy.pays_above(4)
    assert not policy.pays_above(8)
    assert policy.why(8) == "no faster than dense at any measured M from 32 to 64: at best 1.00×, at M=64"
    assert policy.why(64) == "not measured on this machine for M above 64"
    assert [policy.speedup(m) for m in (1, 7, 8, 1000)] == [1.5, 1.5, 1.2, 1.0]
    assert Policy().speedup(4) == 1.0


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.floats(1, 100), st.none() | st.floats(1, 100)),
        min_size=2,
        max_size=8,
    )
)
def test_a_kernel_that_takes_some_m_only_runs_between_those(times):
    rows = [
        Measurement(
            *("float32", 64, 64, 4**i, 50.0, unpacked),
            (("cpu", cpu), *([] if few is None else [("skinny@0", few)])),
            *(64, 9, False),
        )
        for i, (unpacked, cpu, few) in enumerate(times)
    ]
    policy, few = choose(rows), Choice("skinny")
    timed = {row.m: few in row.ways() for row in rows}
    for below, above in itertools.pairwise(timed):
        for m in (below, below + 1, above - 1, above):
            around = {below, above} if below < m < above else {m}
            assert policy.choice(m) != few or all(timed[at] for at in around)
    assert all(math.isfinite(row.us(policy.choice(row.m))) for row in rows)
    assert all(speed > 0 for _, speed in policy.measured)


def test_times_of_kernels_that_are_gone_are_left_alone():
    gone = dataclasses.replace(point(1, 50, 110), sparse_us=(("gone@3", 1.0), ("cpu", 50.0)))
    assert gone.ways() == (DENSE, CPU)
    assert str(choose([gone])) == "1:cpu"
