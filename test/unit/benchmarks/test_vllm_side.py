"""What bench_vllm.py times of an engine, over a stand-in whose scheduler reads prompts in pieces."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import _vllm_side as side
from engine_stand_in import Engine


@pytest.fixture
def args(monkeypatch) -> argparse.Namespace:
    monkeypatch.setattr(side, "sampling", lambda count: count)
    return argparse.Namespace(batches=[1, 8, 64], context=1024, steps=16, prompts=[(1, 2048), (4, 2048)])


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_steps_are_timed_in_which_every_sequence_decodes(args, batch) -> None:
    engine = Engine(side.budget(args))
    before = side.steps_before(args, batch)
    times = side.step_times(SimpleNamespace(llm_engine=engine), batch, 1024, args.steps, before)
    assert args.steps <= len(times) <= args.steps + before + 1
    assert args.context + args.steps + before + 1 <= side.decoded(args)
    assert side.most_tokens(args) < 64 * 1200


def test_warming_up_needs_no_such_step(args) -> None:
    llm = SimpleNamespace(llm_engine=Engine(side.budget(args)))
    assert side.step_times(llm, 64, 1024, 4, 0) == []
