"""The rule by which tuned points become ranges on a GPU."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch import Policy, Timed, choose_by_thresholds
from sparseflow.runtime.dispatch.thresholds import KEEP, START
from sparseflow.runtime.kernels import Choice

RECORDED = Path(__file__).parents[2] / "data" / "autotune_a100.csv"
DENSE = Choice("dense")


def lt(algorithm, split_k=0):
    return Choice("cusparselt", algorithm, split_k)


def layer(**speedups):
    """Points by m1=1.3, m8=(1.1, 0.4)…: the sparse speed-up, and that of decompressing (0.5)."""
    pairs = {name: value if isinstance(value, tuple) else (value, 0.5) for name, value in speedups.items()}
    return [
        Timed(int(name[1:]), 1.0, 1.0 / unpacked, {lt(7): 1.0 / sparse})
        for name, (sparse, unpacked) in pairs.items()
    ]


@pytest.mark.parametrize(("op", "start"), [("gate_up", 256), ("down", 512)])
def test_recorded_measurements_start_where_they_win(op, start):
    with RECORDED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["op"] == op]
    points = [
        Timed(int(r["M"]), float(r["pruned_dense_us"]), 1e9, {lt(0): float(r["sparse_weight_us"])})
        for r in rows
    ]
    policy = choose_by_thresholds(points, "fast")
    assert str(policy) == f"1:dense,{start}:cusparselt@0"
    speeds = [float(r["speedup"]) for r in rows if int(r["M"]) >= start]
    assert policy.ranges[1].speedup == pytest.approx(min(speeds), abs=1e-3)


def test_a_margin_counts_besides_the_share():
    def policy(us, margin):
        points = [Timed(m, 3.0, 9.0, {lt(7): time}, margin) for m, time in zip((1, 16, 32), us, strict=True)]
        return str(choose_by_thresholds(points, "fast"))

    assert policy((2.0, 2.8, 2.9), 0.0) == "1:cusparselt@7"
    assert policy((2.0, 2.8, 2.9), 0.3) == "1:cusparselt@7,2:dense"
    assert policy((2.5, 2.5, 2.5), 0.3) == "1:cusparselt@7"
    assert policy((2.6, 2.6, 2.6), 0.3) == "1:dense"


def test_a_hole_goes_dense_and_what_follows_is_judged_by_itself():
    policy = choose_by_thresholds(layer(m1=1.3, m16=1.2, m64=0.8, m128=1.03, m256=1.5, m512=1.03), "fast")
    assert str(policy) == "1:cusparselt@7,17:dense,256:cusparselt@7"


@pytest.mark.parametrize(
    ("at_16", "at_64", "policy"),
    [
        # What runs at 16 wins at 64 too, is unknown there, or loses to dense: it wins, it may, it would lose.
        ({1: 0.5}, {1: 0.9, 2: 0.7}, "1:cusparselt@1,64:cusparselt@2"),
        ({1: 0.5}, {2: 0.7}, "1:cusparselt@1,64:cusparselt@2"),
        ({1: 0.5, 2: 0.9}, {1: 1.4, 2: 0.7}, "1:cusparselt@1,17:cusparselt@2"),
        ({1: 0.5}, {1: 1.4, 2: 0.7}, "1:cusparselt@1,17:cusparselt@2"),
        ({1: 0.5, 2: 1.1}, {1: 1.8, 2: 1.2}, "1:cusparselt@1,17:dense,64:cusparselt@2"),
        ({1: 0.5}, {1: 1.8}, "1:cusparselt@1,17:dense"),
        ({1: 0.5}, {}, "1:cusparselt@1,17:dense"),
    ],
)
def test_between_two_tuned_ms_nothing_runs_that_loses_at_the_next(at_16, at_64, policy):
    dense = {16: 1.0, 64: 1.3}
    points = [
        Timed(m, dense[m], 9.0, {lt(name): us for name, us in found.items()})
        for m, found in ((16, at_16), (64, at_64))
    ]
    points.append(Timed(1, 1.0, 9.0, {lt(1): 0.5}))
    assert str(choose_by_thresholds(points, "fast")) == policy


def test_a_gain_too_small_to_start_a_range_starts_none():
    policy = choose_by_thresholds(layer(m1=1.04, m2=1.03, m4=1.049), "fast")
    assert str(policy) == "1:dense"
    assert not policy.pays


def test_below_the_first_tuned_m_a_layer_is_dense():
    assert str(choose_by_thresholds(layer(m64=1.5), "fast")) == "1:dense,64:cusparselt@7"


def test_without_a_dense_weight_a_losing_m_runs_the_lesser_evil_and_is_listed():
    points = layer(m1=(0.7, 0.4), m64=(0.3, 0.4), m256=1.4)
    policy = choose_by_thresholds(points, "compressed")
    assert str(policy) == "1:cusparselt@7,64:dense,256:cusparselt@7"
    assert [(r.m_min, round(r.speedup, 2)) for r in policy.losing] == [(1, 0.7), (64, 0.4)]
    assert choose_by_thresholds(points, "fast").losing == ()


def test_a_point_where_every_algorithm_failed_is_dense():
    points = [*layer(m1=1.5), Timed(16, 1.0, 2.0)]
    assert str(choose_by_thresholds(points, "compressed")) == "1:cusparselt@7,16:dense"


def test_an_algorithm_is_kept_while_it_is_within_a_percent_of_the_best():
    points = [
        Timed(256, 1.0, 2.0, {lt(3): 0.7, lt(5): 0.8}),
        Timed(512, 1.0, 2.0, {lt(3): 0.705, lt(5): 0.7}),
        Timed(1024, 1.0, 2.0, {lt(3): 0.75, lt(5, -1): 0.7}),
    ]
    assert str(choose_by_thresholds(points, "fast")) == "1:dense,256:cusparselt@3,1024:cusparselt@5/-1"


@pytest.mark.parametrize("points", [[], [Timed(1, 1.0, 1.0), Timed(1, 2.0, 2.0)]])
def test_points_of_no_layer_are_refused(points):
    with pytest.raises(ArgumentError, match="each M once"):
        choose_by_thresholds(points)


gains = st.lists(st.floats(0.2, 3.0), min_size=1, max_size=12)


@given(gains)
def test_in_fast_mode_no_tuned_m_loses_and_every_range_starts_with_a_gain(speedups):
    points = [Timed(2**i, 1.0, 3.0, {lt(i % 3): 1.0 / gain}) for i, gain in enumerate(speedups)]
    policy = choose_by_thresholds(points, "fast")
    by_m = {point.m: point for point in points}
    sparse = [point.m for point in points if policy.choice(point.m) != DENSE]
    assert all(by_m[m].gain() >= KEEP for m in sparse)
    assert all(by_m[m].gain() >= START for m in sparse if m // 2 not in sparse)
    assert policy.losing == ()


@given(gains)
def test_policies_with_algorithms_survive_text_and_integers(speedups):
    points = [Timed(2**i, 1.0, 3.0, {lt(3 * i, i % 2 - 1): 1.0 / gain}) for i, gain in enumerate(speedups)]
    policy = choose_by_thresholds(points, "compressed")
    assert str(Policy.parse(str(policy))) == str(policy)
    assert Policy.from_ints(policy.to_ints()).to_ints() == policy.to_ints()


@pytest.mark.parametrize("text", ["1:dense@3", "1:cpu@1", "1:cusparselt@70000", "1:cusparselt@1/255"])
def test_algorithms_that_a_backend_does_not_have_are_refused(text):
    with pytest.raises(ArgumentError, match="has no algorithm"):
        Policy.parse(text)


@pytest.mark.parametrize("text", ["1:cusparselt@", "1:cusparselt@x", "1:cusparselt@1/", "1:@1", "1:"])
def test_malformed_choices_are_refused(text):
    with pytest.raises(ArgumentError, match="unknown kernel"):
        Policy.parse(text)


def test_the_own_kernel_and_the_library_share_a_policy():
    skinny = Choice("skinny", 8)
    points = [
        Timed(1, 1.0, 2.6, {skinny: 0.6, lt(3): 1.4}),
        Timed(64, 1.0, 2.6, {skinny: 0.7, lt(3): 1.3}),
        Timed(256, 1.0, 1.5, {lt(3): 0.7}),
    ]
    policy = choose_by_thresholds(points, "compressed")
    assert str(policy) == "1:skinny@8,256:cusparselt@3"
    assert policy.to_ints() == [1, 3 | 8 << 8, 256, 2 | 3 << 8]
    assert not policy.wants_dense
