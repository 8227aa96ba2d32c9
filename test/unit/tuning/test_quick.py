"""Quick tuning: what it tries, in which order, and what that gives beside trying everything."""

import dataclasses
import itertools
import json
import math
import statistics

import pytest

from sparseflow.runtime.dispatch import Timed, choose_by_thresholds
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.kernels.wide import WIDE, Wide
from sparseflow.runtime.tuning import DEFAULT_M, QUICK_M, TunedPoint, TunedTable
from sparseflow.runtime.tuning.cost_model import CostModel, absent_us, by_key
from sparseflow.runtime.tuning.gpu_table import SHIPPED, trusted
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.pace import PACES, spread, wanted
from sparseflow.runtime.tuning.policies import timed
from sparseflow.runtime.tuning.protocol import Request
from sparseflow.runtime.tuning.quick import Plan, breadth_first, candidates, seconds_for
from sparseflow.runtime.tuning.roofline import Product
from sparseflow.runtime.tuning.sweep import FIRST_M
from sparseflow.runtime.tuning.task import Task

AMPERE = Hardware(108, 2.0e6, 3.12e8)
FOUND = {
    "cusparselt": [("cusparselt", a, 0) for a in range(21)],
    "skinny": [("skinny", v, 0) for v in range(61)],
}


@pytest.fixture(scope="module")
def recorded():
    document = json.loads((SHIPPED / "h200-cusparselt-0.10.0.json").read_text())
    return [TunedPoint.from_dict(row) for row in document["rows"]]


def test_a_llamas_shapes_take_twenty_seconds_at_most():
    assert seconds_for(4) == 20


def test_every_shapes_most_telling_rows_come_first():
    tasks = [Task("bfloat16", n, 64, m) for n in (64, 128) for m in QUICK_M]
    order = breadth_first(tasks)
    assert [(task.n, task.m) for task in order[: 2 * len(FIRST_M)]] == [
        (n, m) for n in (64, 128) for m in FIRST_M
    ]
    assert sorted(order) == sorted(tasks)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
@pytest.mark.parametrize("m", QUICK_M)
def test_few_candidates_are_tried_and_few_that_are_dear_to_prepare(machine, dtype, m):
    plan = Plan.of(TunedTable(machine), Hardware())
    request = plan.request(Task(dtype, 6400, 5000, m))
    assert request.effort == "quick"
    assert 1 <= len(request.only) <= 4
    assert all(split_k == 0 for _, _, split_k in request.only)
    library = [key for key in request.only if key[0] == "cusparselt"]
    assert len(library) <= (2 if dtype == "float16" else 4)


class Two(Wide):
    """The kernel for many rows with two variants, as builds without CUDA have none."""

    def candidates(self, problem, weight=None):
        return (Choice("wide", 0), Choice("wide", 1)) if problem.m > 32 else ()


def test_the_kernel_for_many_rows_is_tried_where_no_record_names_it(machine, monkeypatch):
    two = Two(**{field.name: getattr(WIDE, field.name) for field in dataclasses.fields(WIDE)})
    monkeypatch.setattr("sparseflow.runtime.tuning.quick.WIDE", two)
    older = [point for point in trusted(machine) if all(c.backend != "wide" for c in point.candidates)]
    plan = Plan(CostModel(Hardware(), older))

    def tried(dtype, k, m):
        return [key for key in plan.request(Task(dtype, 6400, k, m)).only if key[0] == "wide"]

    assert tried("float8_e4m3fn", 5120, 512) == [("wide", 0, 0), ("wide", 1, 0)]
    assert not tried("float8_e4m3fn", 5120, 16)
    assert not tried("float8_e4m3fn", 5000, 512)  # K is no multiple of 16
    assert not tried("bfloat16", 5120, 512)


def test_a_new_architecture_tries_all_of_the_kernels_that_may_be_fast_then_what_was_fast(point):
    plan = Plan(CostModel(AMPERE))
    first = plan.request(Task("bfloat16", 4096, 4096, 16))
    assert (first.only, first.kernels) == ((), ("skinny",))
    assert plan.request(Task("bfloat16", 4096, 4096, 2048)).kernels[0] == "cusparselt"
    plan.learn(point)  # M = 16
    assert plan.request(Task("bfloat16", 8192, 4096, 16)).only == (("cusparselt", 3, 0),)


def test_what_is_asked_for_is_tried_in_that_order():
    only = (("skinny", 52, 0), ("cusparselt", 3, 0), ("cusparselt", 99, 0))
    assert wanted(Request("float16", 64, 64, 8, only=only), FOUND) == list(only[:2])


def test_without_a_wish_all_is_tried_but_plans_that_take_long():
    assert len(wanted(Request("float16", 64, 64, 8), FOUND)) == 82
    assert len(wanted(Request("bfloat16", 64, 64, 8, effort="quick"), FOUND)) == 82
    few = wanted(Request("float16", 64, 64, 8, effort="quick"), FOUND)
    assert [key for key in few if key[0] == "cusparselt"] == [("cusparselt", 0, 0), ("cusparselt", 10, 0)]


def test_a_kernel_that_is_hoped_for_and_cannot_run_it_leaves_the_others():
    asked = Request("bfloat16", 64, 64, 1024, effort="quick", kernels=("skinny",))
    assert wanted(asked, FOUND) == FOUND["skinny"]
    assert wanted(asked, FOUND | {"skinny": []}) == FOUND["cusparselt"]


def test_keys_are_spread_over_all():
    keys = FOUND["cusparselt"]
    assert [key[1] for key in spread(keys, 3)] == [0, 7, 14]
    assert spread(keys[:2], 4) == keys[:2]


def test_long_products_are_called_and_repeated_less_often():
    quick, full = PACES["quick"], PACES["full"]
    assert quick.calls(4096, 4096, 1) == full.calls(65536, 8192, 16384) == 16
    assert quick.calls(65536, 8192, 16384) == 1
    assert (quick.rounds(1e3), quick.rounds(6e4), quick.rounds(1e7), full.rounds(1e7)) == (3, 1, 1, 9)


def test_requests_survive_the_way_to_the_child():
    asked = Request("bfloat16", 64, 64, 8, effort="quick", only=(("skinny", 5, 0),), kernels=("skinny",))
    assert Request.decode(asked.encode()) == asked


def quickly(point, model):
    ways = model.predict(Product(point.dtype, point.n, point.k, point.m)).ways
    times = by_key(point)
    tried = {Choice(*key): times.get(key[:2], absent_us(point)) for key in candidates(point.dtype, ways)}
    return Timed(point.m, point.dense_us, point.unpacked_us, tried)


def taken(point, choice, memory):
    if choice.is_dense:
        return point.dense_us if memory == "fast" else point.unpacked_us
    return by_key(point).get((choice.kernel, choice.algorithm), absent_us(point))


def costs(recorded, shape, memory):
    """What quick tuning of a shape that was never measured costs over full tuning, at every recorded M."""
    model = CostModel(Hardware(), [p for p in recorded if (p.n, p.k) != shape])
    by_dtype = itertools.groupby((p for p in recorded if (p.n, p.k) == shape), key=lambda p: p.dtype)
    for points in (list(group) for _, group in by_dtype):
        full = choose_by_thresholds(map(timed, points), memory)
        fast = choose_by_thresholds([quickly(p, model) for p in points if p.m in QUICK_M], memory)
        for point in points:
            ours, best = (taken(point, policy.choice(point.m), memory) for policy in (fast, full))
            yield ours / best


@pytest.mark.parametrize("memory", ["fast", "compressed"])
def test_quick_tuning_is_within_five_per_cent_of_full_tuning(recorded, memory):
    rows = {}
    for point in recorded:
        rows.setdefault((point.n, point.k), set()).add(point.m)
    whole = [shape for shape, ms in rows.items() if ms >= set(DEFAULT_M)]
    assert len(whole) >= 10
    factors = [factor for shape in whole for factor in costs(recorded, shape, memory)]
    assert math.exp(statistics.fmean(map(math.log, factors))) < 1.05
