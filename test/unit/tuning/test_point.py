"""Rows of the GPU's table: what is read is what was written, and nothing else is read."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.runtime.dispatch.thresholds import choose_by_thresholds
from sparseflow.runtime.kernels import Choice, sparse_kernels
from sparseflow.runtime.kernels.outputs import output_dtype
from sparseflow.runtime.tuning import Candidate, Failure, TunedPoint
from sparseflow.runtime.tuning.point import finalists, wrong
from sparseflow.runtime.tuning.policies import timed
from sparseflow.runtime.tuning.protocol import Done, Measured, decode, encode
from sparseflow.runtime.tuning.sweep import DTYPES

KERNELS = [kernel.name for kernel in sparse_kernels("cuda")]

times = st.floats(min_value=1e-3, max_value=1e9)
sizes = st.integers(1, 1 << 20)
candidates = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(KERNELS),
        st.integers(0, 65535),
        st.integers(-1, 8),
        times,
        st.floats(0, 1),
    ),
    max_size=4,
    unique_by=lambda c: c.key,
).map(lambda found: tuple(sorted(found, key=lambda c: c.us)))
failed = st.lists(
    st.builds(
        Failure,
        st.sampled_from(KERNELS),
        st.integers(0, 65535),
        st.integers(-1, 8),
        st.text(),
    ),
    max_size=3,
).map(tuple)


@st.composite
def points(draw):
    dtype = draw(st.sampled_from(DTYPES))
    wide = draw(times) if dtype == "float8_e4m3fn" else None
    shape, us = (draw(sizes) for _ in range(3)), (draw(times) for _ in range(2))
    return TunedPoint(dtype, output_dtype(dtype), *shape, *us, draw(candidates), draw(failed), wide)


@given(points())
def test_a_point_survives_json(point):
    assert TunedPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": "float64"}, "no tuned product of 'float64'"),
        ({"dtype": ["bfloat16"]}, "no tuned product of"),
        ({"out": "float16"}, "no tuned product of 'bfloat16' giving 'float16'"),
        ({"n": 0}, "n must be a positive integer, got 0"),
        ({"k": 64.0}, "k must be a positive integer, got 64.0"),
        ({"m": True}, "m must be a positive integer, got True"),
        ({"dense_us": 0}, "dense_us must be a positive number, got 0"),
        ({"dense_us": float("nan")}, "dense_us must be a positive number, got nan"),
        ({"unpacked_us": None}, "unpacked_us must be a positive number, got None"),
        ({"dense_bf16_us": 3.0}, "dense_bf16_us is there for fp8"),
        ({"dtype": "float8_e4m3fn"}, "dense_bf16_us is there for fp8"),
        ({"dtype": "float8_e4m3fn", "dense_bf16_us": -1}, "dense_bf16_us must be a positive number"),
        ({"candidates": {}}, "candidates must be a list"),
        ({"candidates": [7]}, "a row must have the fields backend, algorithm, split_k, us, rel_err"),
        ({"candidates": [["cpu", 1, 0, 1.0, 0.0]]}, "backend must be one of cusparselt, skinny"),
        ({"candidates": [["cusparselt", -1, 0, 1.0, 0.0]]}, "algorithm must be an integer from 0, got -1"),
        ({"candidates": [["cusparselt", 1, -2, 1.0, 0.0]]}, "split_k must be an integer from -1, got -2"),
        ({"candidates": [["cusparselt", 1, 0, "fast", 0.0]]}, "us must be a positive number"),
        ({"candidates": [["cusparselt", 1, 0, 1.0, float("inf")]]}, "rel_err must be a number from 0"),
        ({"candidates": [["cusparselt", 1, 0, 2.0, 0.0], ["cusparselt", 2, 0, 1.0, 0.0]]}, "fastest first"),
        ({"candidates": [["cusparselt", 1, 0, 1.0, 0.0], ["cusparselt", 1, 0, 2.0, 0.0]]}, "each once"),
        ({"candidates": [["cusparselt", i, 0, 1.0, 0.0] for i in range(5)]}, "at most 4"),
        (
            {"failed": [{"backend": "skinny", "algorithm": 1, "split_k": 0, "why": 3}]},
            "why must be text, got 3",
        ),
        ({"failed": None}, "failed must be a list"),
        ({"surplus": 1}, "a row must have the fields dtype, out, n"),
    ],
)
def test_a_malformed_row_is_refused_by_the_name_of_its_field(point, change, why):
    names = [field.name for field in dataclasses.fields(Candidate)]
    if isinstance(rows := change.get("candidates"), list):
        rows = [dict(zip(names, row, strict=True)) if isinstance(row, list) else row for row in rows]
        change = {"candidates": rows}
    wide = {"out": "bfloat16"} if change.get("dtype") == "float8_e4m3fn" else {}
    with pytest.raises(ValueError, match=why):
        TunedPoint.from_dict({**point.to_dict(), **wide, **change})


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_product_is_within_its_bound_and_nan_never_is(dtype):
    assert wrong(dtype, 1e-4) is None
    for error in (float("nan"), float("inf"), -1.0, 0.05, 1.0):
        assert wrong(dtype, error).startswith("wrong product")


def test_messages_survive_their_line():
    done = Done(1.0, 2.0, None, (Measured("cusparselt", 1, -1, 3.0, 1e-3),))
    for message in (done, Measured("skinny", 4, 0, 1.5, 0.0)):
        assert decode(encode(message).encode()) == message


@given(
    st.one_of(
        st.binary(),
        st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
            lambda value: json.dumps(
                {
                    "say": "measured",
                    "backend": value,
                    "algorithm": value,
                    "split_k": value,
                    "us": value,
                    "rel_err": value,
                }
            ).encode()
        ),
    )
)
def test_no_line_breaks_the_reader(line):
    message = decode(line)
    assert message is None or message.algorithm >= 0


RANKED = [("wide", variant, 0) for variant in range(5)] + [("cusparselt", 7, 0), ("cusparselt", 8, -1)]


def test_in_fp8_one_of_the_kept_candidates_is_the_librarys():
    assert finalists("float8_e4m3fn", RANKED) == [*RANKED[:3], RANKED[5]]
    assert finalists("float8_e4m3fn", RANKED[2:]) == RANKED[2:6]
    assert finalists("float8_e4m3fn", RANKED[:5]) == RANKED[:4]
    assert finalists("bfloat16", RANKED) == RANKED[:4]


def fp8_point(**changes):
    candidates = (Candidate("wide", 1, 0, 9.0, 1e-3), Candidate("cusparselt", 7, 0, 12.0, 1e-3))
    sizes = {"n": 1024, "k": 1024, "m": 8192}
    times = {"dense_us": 10.0, "unpacked_us": 15.0, "dense_bf16_us": 20.0, "unscaled_us": 6.0}
    fields = {"candidates": candidates, "failed": (), **sizes, **times, **changes}
    return TunedPoint("float8_e4m3fn", "bfloat16", **fields)


def test_a_result_that_its_reader_scales_is_timed_without_scaling():
    wide, library = Choice("wide", 1), Choice("cusparselt", 7)
    assert timed(fp8_point()).sparse == {wide: 9.0, library: 12.0}
    assert timed(fp8_point(), scaled_later=True).sparse == {wide: 9.0, library: 6.0}
    assert timed(fp8_point(m=256), scaled_later=True).sparse == {wide: 9.0, library: 12.0}
    # Points from before it was measured.
    assert timed(fp8_point(unscaled_us=None), scaled_later=True).sparse == {wide: 9.0, library: 12.0}
    policy = choose_by_thresholds([timed(fp8_point(), scaled_later=True)], "fast")
    assert policy.choice(8192) == library
    # Scaling takes as long after another of its algorithms.
    other = Candidate("cusparselt", 8, 0, 13.5, 1e-3)
    several = timed(fp8_point(candidates=(*fp8_point().candidates, other)), scaled_later=True)
    assert several.sparse == {wide: 9.0, library: 6.0, Choice("cusparselt", 8): 7.5}


def test_points_from_before_unscaled_times_are_read():
    row = fp8_point().to_dict()
    assert TunedPoint.from_dict(row) == fp8_point()
    del row["unscaled_us"]
    assert TunedPoint.from_dict(row) == fp8_point(unscaled_us=None)
    with pytest.raises(ValueError, match="unscaled_us is there for fp8 with a candidate of cuSPARSELt alone"):
        TunedPoint.from_dict(fp8_point(candidates=fp8_point().candidates[:1]).to_dict())
