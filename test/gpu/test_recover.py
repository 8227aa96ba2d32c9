"""`sf.recover` on a GPU: bf16 weights, autocast, a fused optimiser, text in large batches."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo

import sparseflow as sf

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("masters", [True, False])
def test_a_bf16_model_writes_and_comes_closer(masters, tmp_path):
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama")).to("cuda", torch.bfloat16)
    model = copy.deepcopy(dense)
    sf.prune(model)
    zeros = {name: p == 0 for name, p in model.named_parameters()}
    report = sf.recover(
        model,
        dense,
        minutes=1,
        tokens=2000,
        steps=40,
        length=32,
        lr=3e-3,
        masters=masters,
        checkpoint=tmp_path / "run",
        progress=False,
    )
    assert report.after < report.before
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p == 0, zeros[n]) for n, p in model.named_parameters() if n in report.masked)


def test_the_teacher_runs_once_over_a_row_beside_recorded_steps(monkeypatch):
    from sparseflow.finetune import teacher_states

    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama")).to("cuda", torch.bfloat16)
    text = torch.randint(3, zoo.VOCABULARY, (640,))
    found = {}
    for share in (4, 10**12):
        monkeypatch.setattr(teacher_states, "SHARE", share)
        model = copy.deepcopy(dense)
        sf.prune(model)
        given = {"text": text, "text_share": 1.0, "steps": 30, "length": 32, "batch": 4, "lr": 3e-3}
        found[share] = sf.recover(model, dense, 2.0, **given, progress=False)
    kept, plain = found.values()
    assert kept.after < kept.before
    assert kept.after == pytest.approx(plain.after, rel=0.02)
    assert not any("kernel by kernel" in note for note in kept.notes)
    assert "read before" in plain.notes[-1]
