"""Tuning on a real GPU, and what it makes of a library that kills its process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_weights import E4M3, TOLERANCE, error, inputs, linear, packed, pruned, reference
from test_old_library import old, torchs_library

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning import GpuMachine, TunedTable
from sparseflow.runtime.tuning.fill_gpu_table import tune
from sparseflow.runtime.tuning.point import KEPT, wrong

SHAPE = (1024, 2048)
OLD_LIBRARY = """
import json, sys
from pathlib import Path
import torch
from sparseflow.runtime.tuning import TunedTable
from sparseflow.runtime.tuning.supervisor import child_command
from sparseflow.runtime.tuning.fill_gpu_table import tune

def tuned(dtypes, *flags):
    table = TunedTable(folder=Path(sys.argv[1]))
    command = [*child_command(), *flags]
    result = tune([(28672, 4096)], dtypes, [1024], table=table, command=command)
    return {
        "why": sorted({failure.why for _, failure in result.failed}),
        "candidates": {point.dtype: len(point.candidates) for point in result.measured},
        "skipped": [why for _, why in result.skipped],
    }

outcome = {"refused": tuned(["float16"]), "lifted": tuned(["float16", "bfloat16"], "--lift-refusals")}
assert torch.ones(1, device="cuda").item() == 1
print(json.dumps(outcome))
"""


@pytest.fixture
def table(tmp_path):
    return TunedTable(folder=tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3])
def test_a_shape_is_tuned_once_and_its_best_candidates_are_right(table, tmp_path, dtype):
    name = str(dtype).removeprefix("torch.")
    result = tune([SHAPE], [dtype], [16, 256], table=table)
    assert (result.skipped, result.remaining, result.saved) == ((), (), True)
    rows = TunedTable(GpuMachine.here(), tmp_path).layer(name, *SHAPE)
    assert rows == list(result.measured)
    for row in rows:
        assert 1 <= len(row.candidates) <= KEPT
        assert all(wrong(name, candidate.rel_err) is None for candidate in row.candidates)
        assert (row.dense_bf16_us is None) == (dtype != E4M3)
        library = [candidate.us for candidate in row.candidates if candidate.backend == "cusparselt"]
        assert (row.unscaled_us is None) == (dtype != E4M3 or not library)
        assert row.unscaled_us is None or row.unscaled_us < library[0]
    again = tune([SHAPE], [dtype], [16, 256], table=TunedTable(folder=tmp_path))
    assert (again.measured, list(again.known)) == ((), rows)


def test_odd_sizes_are_tuned_too(table):
    [point] = tune([(1003, 2060)], ["bfloat16"], [16], table=table).measured
    assert point.candidates
    assert all(wrong("bfloat16", candidate.rel_err) is None for candidate in point.candidates)


def test_a_tuned_candidate_runs_by_its_policy(table):
    [point] = tune([SHAPE], ["bfloat16"], [1024], table=table).measured
    weight = pruned(*SHAPE, torch.bfloat16)
    device, x = packed(weight), inputs(1024, SHAPE[1], torch.bfloat16)
    assert point.candidates
    for candidate in point.candidates:
        policy = [1, Choice("cusparselt", candidate.algorithm, candidate.split_k).code]
        gpu.prepare(device, [1024], policy)
        hits = gpu.stats().hits
        assert error(linear(x, device, policy=policy), reference(x, weight)) < TOLERANCE[torch.bfloat16]
        assert gpu.stats().hits > hits, "it ran densely"


def test_few_rows_are_tuned_with_the_own_kernel_too(table):
    [point] = tune([SHAPE], ["bfloat16"], [8], table=table).measured
    ours = [c for c in point.candidates if c.backend == "skinny"]
    assert ours, point.figures()
    weight = pruned(*SHAPE, torch.bfloat16)
    device, x = packed(weight), inputs(8, SHAPE[1], torch.bfloat16)
    for candidate in ours:
        policy = [1, Choice("skinny", candidate.algorithm).code]
        assert gpu.path(device, 8, policy) == f"skinny, variant {candidate.algorithm}"
        assert error(linear(x, device, policy=policy), reference(x, weight)) < TOLERANCE[torch.bfloat16]


@pytest.mark.slow
def test_fp16_is_tuned_with_plans_built_ahead(table):
    result = tune([SHAPE], ["float16"], [16, 64], table=table)
    if not result.measured:
        pytest.skip(result.skipped[0][1])
    assert all(point.candidates for point in result.measured)


@old
@pytest.mark.slow
def test_a_library_that_kills_its_process_loses_candidates_and_the_rest_is_tuned(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OLD_LIBRARY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "SPARSEFLOW_CUSPARSELT": str(torchs_library())},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(outcome, indent=1))
    assert "before 0.10" in outcome["refused"]["skipped"][0]
    assert any("illegal instruction" in why for why in outcome["lifted"]["why"])
    assert outcome["lifted"]["candidates"]["bfloat16"] == KEPT
