"""What an engine builds and runs before it serves, with a stand-in for what builds plans."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

import sparseflow.runtime.ops  # noqa: F401  # loads the operators
from sparseflow.integrations.vllm import ready_kernels
from sparseflow.integrations.vllm.ready_kernels import Ready, make_ready
from sparseflow.runtime import Policy

CAPTURED, LARGEST = [1, 8, 64], 4096
POLICY = Policy.parse("1:skinny@3,70:cusparselt@1,513:cusparselt@2,1000:dense,2048:cusparselt@4,8192:dense")
rows_of = torch.ops.sparseflow.plan_rows


@pytest.fixture
def built(monkeypatch) -> list[tuple[list[int], bool]]:
    """The sizes of each request for plans, and whether it waited."""
    calls: list[tuple[list[int], bool]] = []

    def prepare(weight, sizes, codes, *, bias, wait) -> None:
        assert codes == POLICY.to_ints()
        calls.append((list(sizes), wait))

    monkeypatch.setattr(ready_kernels.plans, "prepare", prepare)
    on_cpu = SimpleNamespace(zeros=lambda *size, dtype, device: torch.zeros(size, dtype=dtype))
    monkeypatch.setattr(ready_kernels, "torch", on_cpu)
    return calls


def layer(ran: list[int], shape: tuple[int, int] = (64, 32), *, biased: bool = False, **more) -> Ready:
    dtype = torch.bfloat16
    weight = SimpleNamespace(
        shape=shape,
        in_features=shape[1],
        dtype=dtype,
        multiplied=dtype,
        tensors=[torch.zeros(shape[0], shape[1] // 2, dtype=dtype), torch.zeros(1, dtype=torch.uint8)],
        **{"device": torch.device("cuda"), "format": SimpleNamespace(pattern="2:4"), **more},
    )
    return Ready(weight, POLICY, biased, lambda x: ran.append(x.shape[0]))


def plans_of(sizes: list[int]) -> set[tuple[object, int]]:
    chosen = [(POLICY.choice(m), rows_of(m, torch.bfloat16)) for m in sizes]
    return {(choice, rows) for choice, rows in chosen if choice.kernel == "cusparselt"}


def test_no_step_lacks_its_plan(built) -> None:
    make_ready([layer([])], CAPTURED, LARGEST)
    asked = [m for sizes, _ in built for m in sizes]
    assert max(asked) == LARGEST
    assert plans_of(range(1, LARGEST + 1)) == plans_of(asked)


def test_captured_sizes_and_what_stands_in_are_waited_for(built) -> None:
    make_ready([layer([])], CAPTURED, LARGEST)
    (awaited, waited), (_, later) = built
    assert (waited, later) == (True, False)
    assert set(CAPTURED) <= set(awaited)
    larger = sorted(m for m in awaited if m >= max(CAPTURED))
    assert all(right <= 1.5 * left for left, right in itertools.pairwise(larger))


def test_each_way_that_a_step_can_take_runs_once(built) -> None:
    ran: list[int] = []
    make_ready([layer(ran), layer(ran)], CAPTURED, LARGEST)
    assert ran == [1, 70, 513, 1000, 2048]
    make_ready([layer(ran)], CAPTURED, LARGEST, run=False)
    assert len(ran) == 5


def test_layers_of_one_kind_are_made_ready_once(built) -> None:
    layers = [layer([]), layer([]), layer([], biased=True), layer([], (128, 32))]
    others = [layer([], device=torch.device("cpu")), layer([], format=SimpleNamespace(pattern="6:8"))]
    make_ready([*layers, *others], CAPTURED, LARGEST)
    assert [waited for _, waited in built] == [True] * 3 + [False] * 3
