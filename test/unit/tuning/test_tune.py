"""Tuning measures what the table lacks, keeps it, and says what it left out."""

import json
import subprocess
import sys

import pytest
import torch
from isolated import warm

from sparseflow.errors import ArgumentError, NativeLibraryError, TuningError
from sparseflow.runtime.tuning import TunedTable
from sparseflow.runtime.tuning.fill_gpu_table import tune
from sparseflow.runtime.tuning.supervisor import child_command
from sparseflow.runtime.tuning.task import Task

SHAPE = (4096, 4096)


@pytest.fixture
def own(machine):
    return TunedTable(machine)


def test_every_shape_dtype_and_m_is_measured_once_and_saved(own, fake, machine):
    seen = []
    result = tune(
        [SHAPE, (128, 64), SHAPE],
        [torch.bfloat16, "float8_e4m3fn", "bfloat16"],
        [32, 16, 32],
        table=own,
        command=fake(),
        progress=lambda done, total, text: seen.append((done, total, text)),
    )
    assert [(p.dtype, p.n, p.m) for p in result.measured] == [
        (dtype, n, m) for n in (4096, 128) for dtype in ("bfloat16", "float8_e4m3fn") for m in (16, 32)
    ]
    assert {(p.out, p.dense_bf16_us) for p in result.measured} == {("bfloat16", None), ("bfloat16", 40.0)}
    assert (result.known, result.skipped, result.remaining, result.saved) == ((), (), (), True)
    again = TunedTable(machine)
    assert again.path == result.path
    assert again.layer("bfloat16", *SHAPE) == list(result.measured[:2])
    assert seen[0] == (0, 8, "4096×4096 bfloat16, M=16")
    assert seen[1][:2] == (1, 8)
    assert "sparse 25.0 (0.80×, cusparselt 5)" in seen[1][2]
    assert seen[-1][:2] == (8, 8)


def test_what_the_table_has_is_not_measured_again_unless_forced(own, fake):
    tune([SHAPE], ["bfloat16"], [16], table=own, command=fake())
    tried = len(fake.tried())
    result = tune([SHAPE], ["bfloat16"], [16], table=own, command=fake())
    assert (len(result.measured), len(result.known), len(fake.tried())) == (0, 1, tried)
    result = tune([SHAPE], ["bfloat16"], [16], table=own, command=fake(), force=True)
    assert (len(result.measured), len(result.known)) == (1, 0)


def test_what_cannot_be_tuned_is_listed_with_the_reason(own, fake):
    result = tune([(0, 4096), SHAPE], ["bfloat16"], [16, 32], table=own, command=fake(refuse=[32]))
    assert [p.m for p in result.measured] == [16]
    assert dict(result.skipped) == {
        Task("bfloat16", 0, 4096, 16): "N and K must be at least 1, got N=0, K=4096",
        Task("bfloat16", 0, 4096, 32): "N and K must be at least 1, got N=0, K=4096",
        Task("bfloat16", *SHAPE, 32): "the library has no such product",
    }


def test_odd_sizes_are_tuned_except_in_fp8_which_torch_has_nothing_for(own, fake):
    odd = (4004, 4100)
    result = tune([odd], ["bfloat16", "float8_e4m3fn"], [16], table=own, command=fake())
    assert [(p.dtype, p.n, p.k) for p in result.measured] == [("bfloat16", *odd)]
    [(task, why)] = result.skipped
    assert (task.dtype, "multiples of 16, got N=4004, K=4100" in why) == ("float8_e4m3fn", True)


def test_failed_candidates_are_listed_with_their_points_and_kept(own, fake, machine):
    result = tune([SHAPE], ["bfloat16"], [16], table=own, command=fake(do={"2 0": "crash"}))
    [(point, failure)] = result.failed
    assert (point.m, failure.algorithm) == (16, 2)
    assert TunedTable(machine).layer("bfloat16", *SHAPE)[0].failed == (failure,)


def test_a_deadline_stops_between_points_and_says_what_is_left(own, fake):
    result = tune([SHAPE], ["bfloat16"], [16, 32], table=own, command=fake(), deadline=0)
    assert result.measured == ()
    assert [task.m for task in result.remaining] == [16, 32]
    assert fake.tried() == []


def test_what_was_measured_before_the_child_was_lost_is_kept(own, fake, machine):
    command = fake(do={"5 0": "crash"})
    tune([SHAPE], ["bfloat16"], [16], table=own, command=command)
    with pytest.raises(TuningError):
        tune([SHAPE], ["bfloat16"], [16, 32], table=own, command=fake(start="exit"))
    assert [p.m for p in TunedTable(machine).layer("bfloat16", *SHAPE)] == [16]


TUNER = """
import json, os, signal, sys
from sparseflow.runtime.tuning import GpuMachine, TunedTable
from sparseflow.runtime.tuning.fill_gpu_table import tune
from sparseflow.runtime.tuning.supervisor import child_command

def stop(done, total, text):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

table = TunedTable(GpuMachine(*json.loads(sys.argv[1])))
tune([(4096, 4096)], ["bfloat16"], [1, 2, 4, 8], table=table, command=json.loads(sys.argv[2]), progress=stop)
"""


def test_a_tuner_that_was_killed_is_resumed_where_it_was(own, fake, machine):
    told = json.dumps([machine.gpu, machine.capability, machine.driver, machine.cusparselt, machine.torch])
    killed = subprocess.run([sys.executable, "-c", TUNER, told, json.dumps(fake())], timeout=120)
    assert killed.returncode == -9
    result = tune([SHAPE], ["bfloat16"], [1, 2, 4, 8], table=TunedTable(machine), command=fake())
    assert ([p.m for p in result.known], [p.m for p in result.measured]) == ([1, 2], [4, 8])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"dtypes": ["float64"]}, "can't tune float64"),
        ({"ms": [0]}, "numbers of rows start at 1, got 0"),
        ({"patience": 0}, "must be positive"),
    ],
)
def test_wrong_arguments_are_refused_by_name(own, wrong, why):
    with pytest.raises(ArgumentError, match=why):
        tune(**({"shapes": [SHAPE], "dtypes": ["bfloat16"], "table": own} | wrong))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_the_reason_is_said_and_nothing_crashes():
    with pytest.raises(NativeLibraryError, match="CUDA"):
        tune([SHAPE], ["bfloat16"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_the_real_child_says_why_it_cannot_measure(own):
    python, apart, *words = child_command(0)
    assert (python, apart) == (sys.executable, "-P")
    command = [*warm(), *words]  # it is started twice, and imports torch each time
    with pytest.raises(TuningError, match="CUDA"):
        tune([SHAPE], ["bfloat16"], [16], table=own, command=command)


NOISY = """
import os
from sparseflow.runtime.tuning.child import _claim_stdout
channel = _claim_stdout()
print("a library's banner", flush=True)
os.write(1, b"and one from C")
channel.write("a message")
"""


def test_a_library_that_prints_does_not_reach_the_protocol():
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a message", "a library's banner\nand one from C")


LIGHT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("platformdirs", "rich", "typer", "torch_mlir"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from pathlib import Path
from sparseflow.runtime.tuning import GpuMachine, TunedTable, Candidate
assert TunedTable(GpuMachine("a", "b", "c", "d", "e"), Path(sys.argv[1])).save()
assert "torch" not in sys.modules
import sparseflow.runtime.tuning.fill_gpu_table, sparseflow.runtime.tuning.child
assert "torch" not in sys.modules
"""


def test_with_a_folder_given_tuning_needs_no_package_besides_torch(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
