"""What bench_vllm_steps.py times, over a stand-in of an engine, and the rows that it makes of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import _vllm_steps as steps
import bench_vllm_steps as bench
from engine_stand_in import Engine


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Recorded(Engine):
    """Calls a model in each step, and notes how many rows it had."""

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self.model, self.rows = Model(), []

    def step(self) -> list[SimpleNamespace]:
        waiting = sum(left for left, _ in self.waiting.values())
        self.rows.append(min(self.budget, waiting + len(self.running)))
        self.model(torch.zeros(1))
        return super().step()


@pytest.fixture
def args(monkeypatch) -> argparse.Namespace:
    monkeypatch.setattr(steps, "sampling", lambda count: count)
    return bench.parse(["--cases", "512+0", "512+63", "--repeats", "5"])


@pytest.mark.parametrize("decodes", [0, 63])
def test_a_step_holds_the_prompt_and_all_that_decodes(args, decodes) -> None:
    engine = Recorded(budget=8192)
    llm, forward = SimpleNamespace(llm_engine=engine), steps.Forward(engine.model)
    found = steps.case(args, llm, forward, 512, decodes)
    timed = found["timed"]
    assert [step["steps"] for step in timed] == [1] * 5
    assert timed[0]["prompt"] == 512
    assert len({step["prompt"] for step in timed}) == 5
    assert {step["prompt"] + decodes for step in timed} <= set(engine.rows)
    assert all(0 < step["host_ms"] < step["ms"] for step in timed)
    assert not engine.has_unfinished_requests()


def test_prompts_fit_the_engine(args) -> None:
    longest = max(length for length, _ in args.cases)
    assert max(length for _, length in args.prompts) >= longest + steps.SPREAD - 1
    assert max(decodes for _, decodes in args.cases) < max(args.batches)


def test_the_first_step_is_no_part_of_the_median(args) -> None:
    def timed(*times: float) -> list[dict]:
        return [
            {"prompt": 512, "ms": ms, "host_ms": ms / 2, "device_ms": None, "built": int(ms > 50)}
            for ms in times
        ]

    sides = [
        SimpleNamespace(rounds=[{"cases": [{"timed": timed(*first)}]}, {"cases": [{"timed": timed(*then)}]}])
        for first, then in [((90, 20, 22), (24, 30)), ((99, 10, 11), (12, 60))]
    ]
    args.cases = args.cases[:1]
    (row,) = bench.rows_of(sides, args)
    assert (row["dense_first_ms"], row["dense_ms"], row["dense_worst_ms"]) == (90, 23, 30)
    assert (row["ours_first_ms"], row["ours_ms"], row["ours_host_ms"]) == (99, 11.5, 5.75)
    assert (row["ours_built_first"], row["ours_built"], row["ours_device_ms"]) == (1, 1, None)
    assert "2.00×" in bench.table([row])


def test_a_profile_has_the_step_with_a_prompt_and_the_one_without(args, tmp_path) -> None:
    engine, args.side = Recorded(budget=8192), "dense"
    llm, forward = SimpleNamespace(llm_engine=engine), steps.Forward(engine.model)
    steps.profile(args, llm, forward, tmp_path / "steps.txt")
    text = (tmp_path / "steps.txt").read_text()
    assert "a prompt of 512 beside 63" in text
    assert "63 alone" in text
    assert text.count("aten::add") >= 2
    assert not engine.has_unfinished_requests()
