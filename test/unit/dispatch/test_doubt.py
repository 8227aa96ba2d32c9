"""Which points are measured again, and which measurement of a point is kept."""

from __future__ import annotations

import dataclasses

import pytest

from sparseflow.runtime.dispatch import Measurement
from sparseflow.runtime.dispatch.doubt import TRIES, better, doubtful, implausible
from sparseflow.runtime.robust import LOOSE


def row(m: int, speedup: float = 2.0, **rest) -> Measurement:
    fields = {"crowded": False, "threads": 2, **rest}
    return Measurement("float32", 64, 64, m, 100.0, 150.0, (("cpu", 100 / speedup),), 64, 9, **fields)


@pytest.mark.parametrize(
    ("speedups", "strange"),
    [
        ((2.0, 2.1, 1.9, 1.5, 1.0), set()),
        ((2.0, 2.0, 0.01, 2.0, 1.9), {4}),
        ((2.0, 2.0, 9.0, 2.0, 1.9), {4}),
        ((2.0, 2.0, 0.8, 0.7, 0.6), set()),  # a step, not a point
        ((0.01, 2.0, 2.0, 1.5, 1.0), {1}),
        ((1.0, 2.5, 2.0, 1.5, 1.0), set()),  # one row of x is a product of its own
        ((2.0, 2.0, 2.0, 1.5, 0.2), {16}),
    ],
)
def test_a_speedup_far_off_its_neighbours_is_implausible(speedups, strange):
    assert implausible([row(2**i, speedup) for i, speedup in enumerate(speedups)]) == strange


def test_a_stall_of_dense_or_of_decompressing_shows_too():
    rows = [row(m) for m in (1, 2, 4)]
    for stall in ({"dense_us": 900.0}, {"unpacked_us": 9000.0}):
        assert implausible([rows[0], dataclasses.replace(rows[1], **stall), rows[2]]) == {2}


def test_what_is_doubtful_is_measured_again_until_it_stands():
    rows = [row(1), row(2, spread=2 * LOOSE), row(4, 0.1), row(8, crowded=True)]
    rows.append(row(16, 1.1))
    assert doubtful(rows) == [2, 4, 8]
    assert doubtful(rows, crowd=True) == [2, 4]
    tired = [dataclasses.replace(point, tries=TRIES) for point in rows]
    assert (doubtful(tired), doubtful(tired, crowd=True)) == ([8], [])


def test_the_better_measurement_is_kept_with_the_tries_of_both():
    quiet, crowded = row(4, 2.0, spread=2 * LOOSE), row(4, 3.0, crowded=True)
    assert better(quiet, crowded) == dataclasses.replace(quiet, tries=2)
    assert better(crowded, quiet) == dataclasses.replace(quiet, tries=2)
    settled, loose = row(4, 1.0), row(4, 2.0, spread=2 * LOOSE, tries=2)
    assert better(loose, settled) == dataclasses.replace(settled, tries=3)
    stalled = row(4, 0.01)
    assert better(stalled, settled) == better(settled, stalled) == dataclasses.replace(settled, tries=2)
    slow = dataclasses.replace(settled, dense_us=150.0, sparse_us=(("cpu", 90.0),), spread=0.02)
    both = dataclasses.replace(settled, sparse_us=(("cpu", 90.0),), spread=0.02, tries=2)
    assert better(settled, slow) == better(slow, settled) == both
    alone = row(4, crowded=True, threads=1)
    assert better(alone, crowded).threads == 2


def test_a_measurement_with_more_kernels_replaces_the_other():
    known = row(4)
    more = dataclasses.replace(row(4, crowded=True), sparse_us=(("cpu", 50.0), ("toy@0", 60.0)))
    assert better(known, more) == dataclasses.replace(more, tries=2)
