"""The rule by which times survive noise: when it stops, what it drops, what it says of the rest."""

from __future__ import annotations

import math

import pytest

from sparseflow.runtime.robust import AGREE, LOOSE, PATIENT, settle
from sparseflow.runtime.tuning.replay import DISTURBED, in_turns


def play(*sides, **limits):
    """Rounds of recorded times, the last one over and over."""

    def turn(number):
        return [side[min(number, len(side) - 1)] for side in sides]

    return settle(turn, **{"most": 400, "limit": math.inf, **limits})


def test_rounds_end_when_every_side_agrees():
    assert play([1.0, 1.01, 1.02], [5.0, 5.0, 5.1]).rounds == AGREE
    late = play([1.0] * 7, [5.0, 9.0, 8.0, 5.05, 7.0, 6.5, 5.1])
    assert (late.rounds, late.times) == (7, (1.0, 5.05))
    assert late.spread == pytest.approx(0.02)


def test_agreement_of_a_moment_is_not_enough():
    assert play([1.0], enough=10.0).rounds == 10


def test_a_bound_ends_them_and_the_spread_tells():
    times = [1.0, 1.2, 1.5, 1.9, 1.4, 1.7]
    assert (play(times, most=5).rounds, play(times, limit=4.0).rounds) == (5, PATIENT)
    assert play(times, most=6).spread > LOOSE
    assert play(times, most=2).rounds == play([1.0], limit=0.0).rounds == AGREE


@pytest.mark.parametrize("stalls", [1, 3, 10, 30])
def test_stalls_are_dropped_however_many(stalls):
    side = [1.0, 1.02, *[40.0] * stalls, 1.03, 1.01]
    found = play(side, [2.0])
    assert found.times[0] == pytest.approx(1.0, rel=0.03)
    assert found.spread <= 0.03


def test_too_few_undisturbed_times_are_no_agreement():
    found = play([1.0, 40.0, 41.0, 42.0, 43.0], most=5)
    assert (found.times, found.spread > 1) == ((1.0,), True)


def test_a_few_lucky_times_are_not_the_time():
    assert play([0.7, 0.72, *[1.0 + 0.01 * (turn % 5) for turn in range(28)]], most=30).times[0] >= 1.0


class Graph:
    """A side on a GPU of which every so many replays are disturbed."""

    def __init__(self, us, every=0):
        self.time, self.every, self.replays = us, every, 0

    def us(self):
        self.replays += 1
        disturbed = self.every and self.replays % self.every
        return self.time * (2.5 + 0.3 * (self.replays % 7) if disturbed else 1.0)


def test_a_quiet_gpu_takes_few_rounds_and_a_disturbed_one_more():
    ran: list[int] = []
    quiet = [Graph(10.0), Graph(20.0)]
    assert in_turns(quiet, 9, ran.append) == [10.0, 20.0]
    assert [side.replays for side in quiet] == [AGREE + 1] * 2
    assert sorted(ran[:2]) == sorted(ran[2:4]) == [0, 1]
    assert ran[:2] != ran[2:4]
    disturbed = [Graph(10.0), Graph(20.0, every=5)]
    assert in_turns(disturbed, 9, lambda _: None) == [10.0, 20.0]
    assert 9 < disturbed[0].replays < DISTURBED * 9
    assert in_turns([Graph(5.0)], 1, lambda _: None) == [5.0]
