"""Steps of training as CUDA graphs give what the same steps give one kernel at a time."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.finetune import recovery_run
from sparseflow.pruning import refinement
from sparseflow.runtime.calling.recorded_step import RecordedStep

pytestmark = pytest.mark.gpu


class Kept:
    """A RecordedStep that is remembered, recorded or not."""

    def __init__(self, refusal=""):
        self.refusal, self.steps = refusal, []

    def __call__(self, step, device, refusal=""):
        self.steps.append(RecordedStep(step, device, refusal or self.refusal))
        return self.steps[-1]


def sharp(kind="llama"):
    torch.manual_seed(0)
    return zoo.sharp(zoo.text_model(kind)).to("cuda")


def recovered(dense, kept, tmp_path=None, **options):
    model = copy.deepcopy(dense)
    sf.prune(model)
    rows = torch.randint(0, 60, (40 * 32,), generator=torch.Generator().manual_seed(1))
    with mock.patch.object(recovery_run, "RecordedStep", kept):
        report = sf.recover(
            model,
            dense,
            minutes=2,
            text=rows,
            text_share=1.0,
            length=32,
            batch=4,
            steps=24,
            lr=1e-3,
            compile_layers=False,
            progress=False,
            **options,
        )
    return model, report


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("micro", [2, 4])
def test_a_recovery_is_recorded_and_gives_the_same_weights(kind, micro):
    dense = sharp(kind)
    graphs, plain = Kept(), Kept("one kernel at a time")
    model, report = recovered(dense, graphs, micro=micro)
    other, expected = recovered(dense, plain, micro=micro)
    assert graphs.steps[0].refusal == ""
    assert graphs.steps[0].replays == report.steps - 3
    assert not any("kernel by kernel" in note for note in report.notes)
    assert any("kernel by kernel" in note for note in expected.notes)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4, msg=name)
        assert torch.equal(mine == 0, theirs == 0), name
    assert report.after == pytest.approx(expected.after, rel=1e-3)
    assert report.after < report.before


@pytest.mark.parametrize("alike", [True, False])
def test_batches_of_one_shape_are_recorded_too(alike):
    dense = sharp("bert")
    model = copy.deepcopy(dense)
    sf.prune(model)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for index in range(20):
        rows = torch.randint(0, 60, (4, 32 if alike else 32 + index), generator=generator)
        batches.append({"input_ids": rows, "attention_mask": torch.ones_like(rows)})
    kept = Kept()
    with mock.patch.object(recovery_run, "RecordedStep", kept):
        report = sf.recover(model, dense, 2, batches, steps=12, lr=1e-3, compile_layers=False, progress=False)
    assert bool(kept.steps[0].replays) == alike
    assert any("different shapes" in note for note in report.notes) != alike
    assert report.after < report.before


def test_the_attention_of_the_models_is_as_before():
    dense = sharp()
    model, _ = recovered(dense, Kept())
    assert {model.config._attn_implementation, dense.config._attn_implementation} == {"sdpa"}


def test_a_killed_run_goes_on_and_is_recorded_again(tmp_path, monkeypatch):
    dense, file = sharp(), tmp_path / "run"
    monkeypatch.setattr(recovery_run, "SAVE_EVERY", 0.0)
    whole, report = recovered(dense, Kept(), checkpoint=tmp_path / "whole")
    advance = recovery_run.Recovery._advance

    def killed(self, share, bar):
        if self.at.step >= 13:
            raise KeyboardInterrupt
        advance(self, share, bar)

    with monkeypatch.context() as patch:
        patch.setattr(recovery_run.Recovery, "_advance", killed)
        with pytest.raises(KeyboardInterrupt):
            recovered(dense, Kept(), checkpoint=file)
    kept = Kept()
    model, again = recovered(dense, kept, checkpoint=file)
    assert kept.steps[0].replays
    assert again.steps == report.steps
    for (name, mine), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_blocks_reconstruction_is_recorded_and_gives_the_same_weights(kind, dtype):
    dense = sharp(kind).to(dtype)
    batches = [torch.randint(0, 60, (2, 16), device="cuda") for _ in range(3)]
    models = []
    for kept in (Kept(), Kept("one kernel at a time")):
        model = copy.deepcopy(dense)
        with mock.patch.object(refinement, "RecordedStep", kept):
            sf.prune(model, "sparsegpt", batches, reconstruct="block", steps=30, progress=False)
        assert all(step.refusal == kept.refusal for step in kept.steps), [s.refusal for s in kept.steps]
        assert kept.refusal or all(step.replays == 27 for step in kept.steps)
        models.append(model)
    close = {"rtol": 2e-3, "atol": 2e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    for (name, mine), theirs in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **close, msg=name)


def test_what_cuda_cannot_record_runs_on_as_it_is():
    weight = torch.zeros(4, device="cuda")

    def step(x):
        weight.add_(float(x.sum()))  # waits for the device
        return weight.sum()

    recorded = RecordedStep(step, weight.device)
    for count in range(1, 8):
        assert float(recorded(torch.ones(3, device="cuda"))) == 12 * count
    assert "can't record" in recorded.refusal
    assert recorded.replays == 0


def test_inputs_of_another_shape_run_beside_the_recording():
    weight = torch.zeros(1, device="cuda")

    def step(x, factor):
        return weight.add_(factor * x.sum()).clone()

    recorded = RecordedStep(step, weight.device)
    results = [recorded(torch.ones(2, device="cuda"), 1) for _ in range(5)]
    results += [recorded(torch.ones(3, device="cuda"), 1), recorded(torch.ones(2, device="cuda"), 2)]
    results += [recorded(torch.ones(2, device="cuda"), 1)]
    assert [float(result) for result in results] == [2, 4, 6, 8, 10, 13, 17, 19]
    assert recorded.replays == 3
