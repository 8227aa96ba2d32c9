"""The cost model: what recorded points say of others, and what it chooses for shapes that are left out."""

import dataclasses
import json

import pytest

from sparseflow.runtime.tuning import Candidate, TunedPoint
from sparseflow.runtime.tuning.cost_model import CostModel, absent_us, by_key
from sparseflow.runtime.tuning.gpu_table import SHIPPED
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.roofline import Product, fitted

H200 = Hardware()
LLAMA = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]


@pytest.fixture(scope="module")
def recorded():
    document = json.loads((SHIPPED / "h200-cusparselt-0.10.0.json").read_text())
    return [TunedPoint.from_dict(row) for row in document["rows"]]


def ways(*times, effort="full", **at):
    """A point with candidates of cuSPARSELt."""
    candidates = tuple(sorted(Candidate("cusparselt", a, 0, us, 1e-3) for a, us in times))
    fastest = tuple(sorted(candidates, key=lambda c: c.us))
    sizes = {"n": 4096, "k": 4096, "m": 1024} | at
    return TunedPoint(
        "bfloat16", "bfloat16", **sizes, dense_us=60.0, unpacked_us=90.0, candidates=fastest, failed=(),
        effort=effort,
    )  # fmt: skip


def product(n=4096, k=4096, m=1024):
    return Product("bfloat16", n, k, m)


def ranked(model, asked):
    return [way.key[1] for way in model.predict(asked).ways]


def test_the_point_itself_decides_where_it_is_recorded():
    model = CostModel(H200, [ways((3, 40.0), (5, 44.0)), ways((5, 70.0), (3, 90.0), n=8192)])
    assert ranked(model, product())[0] == 3
    assert ranked(model, product(n=8192))[0] == 5


def test_another_gpus_points_count_less_than_the_devices_own():
    here, there = ways((3, 40.0), (5, 44.0)), ways((5, 30.0), (3, 44.0))
    assert ranked(CostModel(H200, [here], [(there, H200)]), product())[0] == 3
    assert ranked(CostModel(H200, (), [(there, H200)]), product())[0] == 5


def test_what_a_full_point_does_not_keep_is_slower_than_all_that_it_keeps():
    model = CostModel(H200, [ways((3, 40.0), (5, 44.0)), ways((7, 20.0), n=16384)])
    assert ranked(model, product()) == [3, 5, 7]
    assert absent_us(ways((3, 40.0), (5, 44.0))) == pytest.approx(44.0 * 1.1)
    assert absent_us(ways((3, 40.0))) == pytest.approx(42.0)


def test_what_a_quick_point_does_not_keep_may_not_have_been_tried():
    model = CostModel(H200, [ways((3, 40.0), effort="quick"), ways((7, 50.0), n=8192)])
    assert ranked(model, product())[0] == 7  # it is much faster for its size


def test_points_of_a_far_m_say_nothing():
    model = CostModel(H200, [ways((3, 40.0), m=1024)])
    assert ranked(model, product(m=256)) == [3]
    assert model.predict(product(m=128)).ways == ()


def test_of_an_architecture_that_nobody_measured_the_kernels_are_ranked():
    model = CostModel(Hardware(108, 2.0e6, 3.12e8))
    assert model.predict(product()).ways == ()
    assert not model.predict(product()).sparse
    assert [name for name, _ in model.kernels(product(m=1))] == ["skinny", "cusparselt"]
    assert [name for name, _ in model.kernels(product(m=4096))] == ["cusparselt", "skinny"]
    in_fp8 = [name for name, _ in model.kernels(Product("float8_e4m3fn", 4096, 4096, 4096))]
    assert set(in_fp8) == {"cusparselt", "skinny", "wide"}
    assert in_fp8[-1] == "skinny"


def test_a_kernel_that_was_not_fitted_in_a_dtype_is_ranked_by_its_points(recorded):
    """A kernel of which the shipped table has nothing in bfloat16."""
    point = next(p for p in recorded if (p.dtype, p.n, p.k, p.m) == ("bfloat16", 4096, 4096, 64))
    own = Candidate("wide", 3, 0, 0.6 * point.candidates[0].us, 1e-3)
    model = CostModel(H200, recorded)
    model.add([dataclasses.replace(point, candidates=(own, *point.candidates))])
    assert model.predict(product(m=64)).ways[0].key == ("wide", 3)


def test_a_gpu_with_half_the_bandwidth_takes_twice_as_long_for_few_rows(recorded):
    model = CostModel(H200, recorded)
    slow = CostModel(
        dataclasses.replace(H200, bandwidth=H200.bandwidth / 2), (), [(p, H200) for p in recorded]
    )
    asked = product(28672, 4096, 1)
    assert slow.predict(asked).dense_us > 1.7 * model.predict(asked).dense_us
    assert ranked(slow, asked)[0] == ranked(model, asked)[0]


def test_shapes_that_are_left_out_are_predicted(recorded):
    """The whole of it is benchmarks/bench_cost_model.py; here the shapes of one model, hidden together."""
    held = [p for p in recorded if (p.n, p.k) in LLAMA]
    model = CostModel(H200, [p for p in recorded if (p.n, p.k) not in LLAMA])
    over = 1.0
    for point in held:
        found = model.predict(Product(point.dtype, point.n, point.k, point.m))
        us = by_key(point).get(found.ways[0].key, absent_us(point)) if found.sparse else point.dense_us
        assert us <= point.dense_us / 0.95
        over *= us / min(point.dense_us, point.candidates[0].us)
    assert over ** (1 / len(held)) < 1.12


def test_the_constants_are_fitted_to_the_shipped_table(recorded):
    document = json.loads((SHIPPED.parent / "cost_model.json").read_text())
    assert (SHIPPED / document["fitted"]["table"]).exists()
    assert set(fitted().sides) == {"dense", "cusparselt", "skinny", "wide"}
    for kernel, sides in fitted().sides.items():
        for dtype, side in sides.items():
            assert 0 < side.bandwidth <= 1, (kernel, dtype)
            assert 0 < side.flops <= 1, (kernel, dtype)


def test_figures_of_a_gpu_are_read_from_torch():
    class Properties:
        major, minor, multi_processor_count = 9, 0, 132
        clock_rate, memory_clock_rate, memory_bus_width = 1_830_000, 2_619_000, 5120

    found = Hardware.of(Properties)
    assert found.sms == 132
    assert found.bandwidth == pytest.approx(3.35e6, rel=0.01)
    assert found.flops == pytest.approx(9.89e8, rel=0.01)


def test_what_torch_does_not_know_of_a_gpu_is_the_h200s_by_the_multiprocessor():
    class Properties:
        major, minor, multi_processor_count = 9, 0, 66

    assert Hardware.of(Properties) == Hardware(66, H200.bandwidth / 2, H200.flops / 2)


def test_kernels_are_predicted_only_for_rows_that_they_are_tried_with():
    few = ways((3, 40.0), m=256)
    few = dataclasses.replace(few, candidates=(Candidate("skinny", 9, 0, 20.0, 1e-3), *few.candidates))
    model = CostModel(H200, [few, ways((4, 44.0), n=8192, m=512)])
    assert {way.key[0] for way in model.predict(product(m=256)).ways} == {"skinny", "cusparselt"}
    assert {way.key[0] for way in model.predict(product(m=512)).ways} == {"cusparselt"}
