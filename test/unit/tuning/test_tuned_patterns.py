"""Tuning layers of other patterns than 2:4."""

import torch

from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning import TunedTable, fill_gpu_table
from sparseflow.runtime.tuning.missing import lacking
from sparseflow.runtime.tuning.policies import tuned_policies
from sparseflow.runtime.tuning.protocol import Request
from sparseflow.runtime.tuning.sweep import QUICK_M, refusal
from sparseflow.runtime.tuning.task import Task

DEVICE = torch.device("cuda", 0)


def test_points_are_asked_for_with_their_pattern(machine):
    tasks = lacking([(4096, 4096)], "bfloat16", machine, "quick", "6:8")
    assert {task.pattern for task in tasks} == {"6:8"}
    assert sorted(task.m for task in tasks) == sorted(QUICK_M)
    assert str(tasks[0]) == "4096×4096 bfloat16 6:8, M=1"
    assert Request.decode(Request("bfloat16", 8, 8, 1, pattern="6:8").encode()).pattern == "6:8"


def test_a_point_is_measured_into_the_table_of_its_pattern(machine, fake):
    tasks = [Task("bfloat16", 4096, 4096, 16, "4:6")]
    table = TunedTable(machine, pattern="4:6")
    result = fill_gpu_table.measure(tasks, effort="quick", table=table, command=fake())
    assert [point.m for point in result.measured] == [16]
    assert result.measured[0].effort == "quick"
    assert len(TunedTable(machine, pattern="4:6")) == 1
    assert len(TunedTable(machine)) == 0


def test_fp8_and_float32_are_not_tuned():
    assert refusal(4096, 4096, "bfloat16", "6:8") is None
    for dtype in ("float8_e4m3fn", "float32"):
        why = f"on GPUs sparse layers are bfloat16 or float16, not {dtype}"
        assert refusal(4096, 4096, dtype, "6:8") == why


def test_sparse_everywhere_is_by_the_kernel_for_tiles(monkeypatch, machine):
    monkeypatch.setattr("sparseflow.runtime.tuning.policies.GpuMachine.here", lambda device: machine)
    found = tuned_policies([(64, 64)], torch.bfloat16, DEVICE, mode="sparse", tune="off", pattern="6:8")
    assert found[64, 64].choice(1) == Choice("tiles")
    found = tuned_policies([(64, 64)], torch.bfloat16, DEVICE, tune="off", pattern="6:8")
    assert "no table has 64×64 bfloat16" in found[64, 64]
