"""Quick tuning on a real GPU: bounded, kept, right, and of the machine's processes only one at a time."""

import json
import subprocess
import sys

import pytest
import torch
from gpu_weights import E4M3
from torch import nn

import sparseflow as sf
from sparseflow.runtime.products import which
from sparseflow.runtime.tuning import QUICK_M, GpuMachine, TunedTable, gpu_table, lookup
from sparseflow.runtime.tuning.fill_gpu_table import tune
from sparseflow.runtime.tuning.point import KEPT, wrong

SHAPE = (1984, 2112)  # in no table
DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3])
def test_a_shape_is_tuned_by_few_candidates_that_are_right(dtype):
    name = str(dtype).removeprefix("torch.")
    result = tune([SHAPE], [dtype], effort="quick")
    assert (result.skipped, result.remaining, result.saved) == ((), (), True)
    points = TunedTable().layer(name, *SHAPE)
    assert [point.m for point in points] == sorted(QUICK_M)
    for point in points:
        assert point.effort == "quick"
        assert 1 <= len(point.candidates) <= KEPT
        assert all(wrong(name, candidate.rel_err) is None for candidate in point.candidates)
    assert tune([SHAPE], [dtype], effort="quick").measured == ()


@pytest.mark.slow
def test_fp16_builds_few_plans():
    for point in tune([SHAPE], ["float16"], effort="quick").measured:
        assert sum(candidate.backend == "cusparselt" for candidate in point.candidates) <= 2


def test_a_gpu_of_which_nobody_has_tables_is_tuned_too(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_table, "SHIPPED", tmp_path)
    found = which.policies([SHAPE, (4096, 2048)], torch.bfloat16, DEVICE)
    assert not [why for why in found.values() if isinstance(why, str)]
    points = lookup("bfloat16", *SHAPE, GpuMachine.here())
    assert {point.m for point in points} == set(QUICK_M)
    assert all(point.candidates for point in points)


def test_what_was_tuned_fully_is_not_tuned_again():
    if TunedTable.shipped(GpuMachine.here()) is None:
        pytest.skip("no table is shipped for this GPU and version of cuSPARSELt")
    which.policies([(4096, 4096), (6144, 4096)], torch.bfloat16, DEVICE)
    assert len(TunedTable()) == 0


def test_full_tuning_measures_quick_points_again():
    tune([SHAPE], ["bfloat16"], [16], effort="quick")
    [point] = tune([SHAPE], ["bfloat16"], [16]).measured
    assert (point.effort, len(point.candidates)) == ("full", KEPT)


def test_replaced_layers_are_tuned_and_say_nothing_is_missing():
    model = nn.Sequential(nn.Linear(SHAPE[1], SHAPE[0])).to("cuda", torch.bfloat16).eval()
    sf.nn.sparsify(model, skip_defaults=False)
    [layer] = model
    assert layer.prepared
    assert "no table" not in layer.reason
    x = torch.randn(64, SHAPE[1], device="cuda").bfloat16()
    with torch.no_grad():
        expected = nn.functional.linear(x.float(), layer.weight.unpack().float(), layer.bias.float())
        error = (model(x).float() - expected).norm() / expected.norm()
    assert error < 1e-2


RANK = """
import json, sys
import torch
from sparseflow.runtime.products import which
from sparseflow.runtime.tuning.fill_gpu_table import _Run

kept = []
keep = _Run._keep
_Run._keep = lambda self, point: (kept.append(point.m), keep(self, point))
shapes = [tuple(shape) for shape in json.loads(sys.argv[1])]
found = which.policies(shapes, torch.bfloat16, torch.device("cuda", 0))
print(json.dumps([len(kept), [str(found[shape]) for shape in shapes]]))
"""


def test_processes_that_start_together_measure_each_point_once():
    shapes = [SHAPE, (2112, 1984)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, json.dumps(shapes)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [json.loads(rank.communicate(timeout=300)[0].splitlines()[-1]) for rank in ranks]
    assert sum(count for count, _ in said) == len(TunedTable()) <= len(shapes) * len(QUICK_M)
    if sum(count for count, _ in said) == len(shapes) * len(QUICK_M):
        assert said[0][1] == said[1][1]
