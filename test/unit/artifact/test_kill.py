"""A process that is killed while it saves, prunes or tunes leaves files that can be used.

KILLS says how often: ``SPARSEFLOW_KILLS=200 pytest test/unit/artifact/test_kill.py`` tries for longer.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.runtime.artifact import replacing as module
from sparseflow.runtime.artifact.replacing import replacing
from sparseflow.runtime.tuning import GpuMachine, TunedPoint, TunedTable

KILLS = int(os.environ.get("SPARSEFLOW_KILLS", "6"))


@pytest.fixture(autouse=True)
def one_thread():
    """Threads don't come along into a forked child, which would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed_while(work, wait: float) -> None:
    """Fork a child that works for ever, and kill it."""
    child = os.fork()
    if not child:
        try:
            while True:
                work()
        finally:
            os._exit(1)  # no clean-up of pytest's
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def waits(longest: float):
    return [random.Random(i).uniform(0, longest) for i in range(KILLS)]


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compiled(size: int) -> sf.CompiledModel:
    model = nn.Sequential(nn.Linear(size, 64), nn.ReLU()).eval()
    return sf.compile(model, (torch.randn(2, size),), prune="magnitude", policy="sparse")


def test_an_artifact_is_the_old_or_the_new_one_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    models = {size: compiled(size) for size in (64, 128)}
    folder = tmp_path / "artifact"
    once = max(seconds(lambda m=m: m.save(folder)) for m in models.values())

    def save_both() -> None:
        for model in models.values():
            model.save(folder)

    for wait in waits(4 * once):
        killed_while(save_both, wait)
        found = sf.load(folder)
        size = found.report["layers"][0]["K"]
        x = torch.randn(3, size)
        assert torch.equal(found(x), models[size](x))
    save_both()
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_system_that_cant_exchange_names_still_replaces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_swap", lambda one, other: False)
    for text in ("one", "two"):
        with replacing(tmp_path / "folder") as new:
            (new / "file").write_text(text)
    assert (tmp_path / "folder" / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_was_killed_between_two_renames_is_put_in_its_place(tmp_path: Path, monkeypatch) -> None:
    def write(text: str) -> None:
        with replacing(tmp_path / "folder") as new:
            (new / "file").write_text(text)

    def killed(path: Path, target: Path) -> None:
        if target == tmp_path / "folder":
            os._exit(9)
        rename(path, target)

    write("one")
    rename = Path.rename
    monkeypatch.setattr(module, "_swap", lambda one, other: False)
    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "rename", killed)
        write("two")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "folder").exists()
    with pytest.raises(RuntimeError), replacing(tmp_path / "folder"):
        raise RuntimeError("this one fails")
    assert (tmp_path / "folder" / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_is_taken_for_abandoned_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch
) -> None:
    real, seen = module.tempfile.mkdtemp, []

    def make(**options) -> str:
        seen.append(real(**options))
        if len(seen) == 1:
            module._remove_abandoned(tmp_path / "folder")
        return seen[-1]

    monkeypatch.setattr(module.tempfile, "mkdtemp", make)
    with replacing(tmp_path / "folder") as new:
        (new / "file").write_text("")
    assert len(seen) == 2
    assert (tmp_path / "folder" / "file").exists()


def test_what_another_process_is_saving_is_not_removed(tmp_path: Path) -> None:
    with replacing(tmp_path / "folder") as theirs:
        (theirs / "file").write_text("theirs")
        with replacing(tmp_path / "folder") as ours:
            (ours / "file").write_text("ours")
        assert (theirs / "file").exists()
    assert (tmp_path / "folder" / "file").read_text() == "theirs"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    """What pruning takes block by block, where channels can change places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def six_layers() -> nn.Module:
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))


FORKS_NO_GRADIENTS = pytest.mark.skipif(
    torch.version.cuda is not None, reason="the threads of autograd in a torch with CUDA don't outlive a fork"
)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (six_layers, {}),
        pytest.param(Stack, {"permute": True, "reconstruct": "block", "steps": 3}, marks=FORKS_NO_GRADIENTS),
    ],
)
def test_pruning_resumes_to_the_same_bits_wherever_it_is_killed(make, options, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = make().state_dict()
    batches = [torch.randn(256, 64)]

    def prune(checkpoint: Path | None) -> dict[str, torch.Tensor]:
        model = make().eval()
        model.load_state_dict(start)
        sf.prune(model, "sparsegpt", batches, checkpoint=checkpoint, progress=False, **options)
        return model.state_dict()

    expected = prune(None)
    once = seconds(lambda: prune(None))
    for i, wait in enumerate(waits(once)):
        folder = tmp_path / f"checkpoint-{i // 2}"  # each is killed twice
        killed_while(lambda folder=folder: prune(folder), wait)
        if i % 2:
            found = prune(folder)
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_tuned_table_keeps_what_was_saved_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    machine = GpuMachine("NVIDIA H200", "9.0", "580", "0.10.0", "2.11")

    def point(m: int) -> TunedPoint:
        return TunedPoint("bfloat16", "bfloat16", 4096, 4096, m, 10.0, 12.0, (), ())

    def measure() -> None:
        table = TunedTable(machine, tmp_path)
        table.add([point(len(table) + 1)])
        table.save()

    measure()
    known = 1
    for wait in waits(20 * seconds(measure)):
        killed_while(measure, wait)
        table = TunedTable(machine, tmp_path)
        assert (table.note, len(table) >= known) == (None, True)
        known = len(table)
    assert known > 1
