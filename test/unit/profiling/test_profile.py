"""`sf.profile`: shares, speed-up, ceiling and what was reached, from one set of kernels."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, InferenceOnlyError, ProfileError
from sparseflow.profiling import Profile, Side
from sparseflow.profiling.kernels import Kernel, kernels


def side(title, seconds, **us):
    return Side(title, seconds, tuple(Kernel(kind, kind, 1, value) for kind, value in us.items()))


@pytest.fixture
def known():
    dense = side("eager", 1e-3, GEMM=600.0, attention=100.0, elementwise=200.0, other=100.0)
    return Profile(
        dense, side("compiled", 8e-4, GEMM=300.0, attention=100.0, elementwise=200.0), {"model": "m"}
    )


def test_the_figures_follow_amdahl(known):
    assert known.dense.shares == {"GEMM": 60, "attention": 10, "elementwise": 20, "other": 10}
    assert known.gemm_speedup == 2
    assert known.ceiling == pytest.approx(1 / (1 - 0.6 + 0.6 / 2))
    assert known.reached == pytest.approx(1.25)
    assert known.reached_in_kernels == pytest.approx(1000 / 600)


def test_a_model_without_gemms_has_no_speedup_and_nothing_to_gain():
    found = Profile(side("eager", 1.0, elementwise=5.0), side("compiled", 1.0, elementwise=5.0))
    assert math.isnan(found.gemm_speedup)
    assert found.ceiling == 1
    assert found.to_dict()["gemm_speedup"] is None
    assert "–" in found.table()


def test_the_forms_say_the_same(known, tmp_path):
    table, plain = known.table(), json.loads(json.dumps(known.to_dict()))
    assert "ceiling 1.43×; reached 1.25×" in table
    assert plain["dense"]["shares"]["GEMM"] == 60
    assert plain["ceiling"] == pytest.approx(1.4286, abs=1e-4)
    known.chart(tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text()
    assert drawn.count("<path") > 8


@pytest.mark.parametrize("path", ["chart.nonsense", "no/such/folder/chart.png"])
def test_a_chart_that_cannot_be_written_is_refused(known, tmp_path, path):
    with pytest.raises(ArgumentError, match="can't be written"):
        known.chart(tmp_path / path)


class Counting(nn.Module):
    """Two products and an activation, and how often it ran."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.calls = 0

    def forward(self, x):
        if not torch.compiler.is_exporting():
            self.calls += 1
        return self.down(torch.relu(self.up(x)))


def test_a_profile_counts_every_operator_once_and_its_shares_sum_to_100():
    model, resets = Counting().eval(), []
    found = sf.profile(
        model,
        (torch.randn(8, 64),),
        calls=3,
        seconds=0,
        before=lambda: resets.append(1),
        prune="magnitude",
        policy="sparse",
    )
    for one in (found.dense, found.compiled):
        assert sum(one.shares.values()) == pytest.approx(100)
        assert one.us == pytest.approx(sum(one.us_by_kind.values()))
    products = {k.name: k.calls for k in found.dense.kernels if k.kind == "GEMM" and k.name != "aten::linear"}
    assert products == {"aten::addmm": 2}
    assert {k.name: k.calls for k in found.compiled.kernels if k.kind == "GEMM"} == {"sparseflow::linear": 2}
    assert found.meta["model"] == "Counting"
    assert 0 < len(resets) < model.calls * 2


def test_both_sides_run_by_inductor_when_the_compiled_one_does():
    found = sf.profile(Counting().eval(), (torch.randn(8, 64),), calls=1, seconds=0, inner="inductor")
    assert found.dense.title == "inductor"
    assert found.dense.us > 0


def test_what_cannot_be_profiled_is_refused():
    x = torch.randn(8, 64)
    with pytest.raises(ArgumentError, match="must be a torch"):
        sf.profile(torch.relu, (x,))
    with pytest.raises(ArgumentError, match="calls must be at least 1"):
        sf.profile(Counting().eval(), (x,), calls=0)
    with pytest.raises(ArgumentError, match="policy must be one of"):
        sf.profile(Counting().eval(), (x,), policy="fast")
    with pytest.raises(InferenceOnlyError):
        sf.profile(Counting(), (x,))
    with pytest.raises(ProfileError, match="recorded no kernel"):
        kernels(lambda: None, torch.device("cpu"), 1)
