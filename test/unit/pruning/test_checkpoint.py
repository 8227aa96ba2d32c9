"""Runs that are killed go on where they were, to the same bits."""

from __future__ import annotations

import os
import subprocess
from itertools import count
from pathlib import Path

import pytest
import torch
import warm_tools
from isolated import warm
from safetensors.torch import load_file

import sparseflow as sf
from sparseflow.errors import ArgumentError

SCRIPT = """
import os, signal, sys, torch
from torch import nn
import sparseflow as sf
from sparseflow.pruning.pruner import Pruner
from safetensors.torch import save_file

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.layers = nn.ModuleList(Block() for _ in range(4))
    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)

folder, kill, out, seed = sys.argv[1:]
torch.manual_seed(0)
model, batches = Model().eval(), [torch.randn(40, 8) for _ in range(3)]
work = Pruner._write
left = int(kill)
def write(self, layer, pruned):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    work(self, layer, pruned)
Pruner._write = write
checkpoint = None if folder == "none" else folder
options = dict(reconstruct="block", steps=5, permute=True, seed=int(seed))
report = sf.prune(model, "sparsegpt", batches, checkpoint=checkpoint, **options)
save_file(model.state_dict(), out)
print(sum(layer.method is not None for layer in report.layers), -left)
"""


def run(folder, out, kill=-1, seed=0):
    command = [*warm(), "-c", SCRIPT, str(folder), str(kill), str(out), str(seed)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_killed_in_any_block_resumes_to_the_same_bits(tmp_path):
    whole = run("none", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    folder, out = tmp_path / "run", tmp_path / "resumed"
    for kill in (3, 4):  # in the first block, and in the second: one more write than the block has
        killed = run(folder, out, kill)
        assert killed.returncode == warm_tools.DIED, killed.stderr
        assert not out.exists()
    resumed = run(folder, out)
    assert resumed.returncode == 0, resumed.stderr
    pruned, written = map(int, resumed.stdout.split())
    assert pruned == 10
    assert 0 < written - 1 < pruned
    one, other = load_file(tmp_path / "whole"), load_file(out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    foreign = run(folder, out, seed=1)
    assert "holds a run of another model, other calibration data or other options" in foreign.stderr


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)).eval()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="can't be used"):
        sf.prune(model, "wanda", [torch.randn(300, 8)], checkpoint=tmp_path / "file")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ArgumentError, match="can't be used"):
        sf.prune(model, "wanda", [torch.randn(300, 8)], checkpoint=tmp_path)


class Killed(BaseException):
    """What no handler takes for an error."""


def test_a_run_stopped_at_any_step_of_its_writing_resumes_to_the_same_bits(tmp_path, monkeypatch):
    def prune(folder):
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3))).eval()
        sf.prune(model, "sparsegpt", [torch.randn(300, 8)], checkpoint=folder)
        return model.state_dict()

    steps = count()
    whole = prune(tmp_path / "whole")
    for name, owner in (("open", Path), ("fsync", os), ("replace", Path)):
        real = getattr(owner, name)

        def step(*args, real=real, **options):
            if next(steps) == last:
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(owner, name, step)
    for last in count():
        steps = count()
        try:
            prune(tmp_path / str(last))
        except Killed:
            steps = count(last + 1)
            found = prune(tmp_path / str(last))
            assert all(torch.equal(found[key], value) for key, value in whole.items())
        else:
            break
    assert last >= 9  # three steps for each of three layers
