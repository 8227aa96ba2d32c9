"""Masks that move while a model is recovered: what they keep, what they learn, and going on after a kill."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.finetune import moving_masks, recovery_run
from sparseflow.runtime.pattern import Pattern

OPTIONS = {"minutes": 5.0, "length": 16, "lr": 3e-3, "batch": 4, "progress": False, "text_share": 1.0}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(moving_masks, "EVERY", 4)


def pair(pattern="2:4", name="llama", dtype=torch.float32):
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model(name)).to(dtype)
    model = copy.deepcopy(dense)
    sf.prune(model, pattern=pattern)
    return model, dense


def recover(model, dense, steps=24, **more):
    text = torch.randint(3, zoo.VOCABULARY, (640,), generator=torch.Generator().manual_seed(7))
    return sf.recover(model, dense, text=text, steps=steps, **OPTIONS | more)


def masks_of(model):
    return {name: p == 0 for name, p in model.named_parameters() if p.dim() == 2}


@pytest.mark.parametrize("pattern", ["2:4", "4:6", "6:8"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_masks_move_and_weights_keep_their_pattern(pattern, name):
    model, dense = pair(pattern, name)
    before = masks_of(model)
    report = recover(model, dense, masks="moving", lr=1e-3)
    assert report.after < report.before
    moved = 0
    for weight, mask in masks_of(model).items():
        if weight in report.masked:
            value = model.get_parameter(weight)
            rows = value.t() if "attn.c_" in weight or "mlp.c_" in weight else value
            assert Pattern.of(pattern).holds(rows), weight
            moved += int((mask != before[weight]).sum())
    assert moved > 0


def test_it_learns_which_weights_a_task_needs():
    """A bad mask is left for one near the dense weights', which a fixed one can't be."""
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama"))
    losses = {}
    for kind in ("fixed", "moving"):
        model = copy.deepcopy(dense)
        for layer in model.model.layers:
            weight = layer.mlp.down_proj.weight
            with torch.no_grad():  # keeps the two smallest of four
                keep = Pattern(2, 4).mask(-1 / weight.abs().clamp(min=1e-9))
                weight.mul_(keep)
        losses[kind] = recover(model, dense, steps=120, masks=kind).after
    assert losses["moving"] < 0.9 * losses["fixed"]


def test_the_best_look_is_whole_even_if_masks_moved_since(monkeypatch):
    model, dense = pair()
    kept = []
    look = recovery_run.Recovery._look

    def noted(self):
        look(self)
        # Every later look counts as worse: the weights of the first are taken at the end.
        self.at.best = -1.0
        kept.append({name: value.clone() for name, value in self.best_state.items()})

    monkeypatch.setattr(recovery_run.Recovery, "_look", noted)
    recover(model, dense, masks="moving")
    assert len(kept) > 2
    for name, value in kept[0].items():
        assert torch.equal(model.get_parameter(name), value), name


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery_run, "SAVE_EVERY", 0.0)
    whole, dense = pair()
    recover(whole, dense, masks="moving", checkpoint=tmp_path / "whole")
    advance = recovery_run.Recovery._advance

    def killed(self, share, bar):
        if self.at.step >= 9:
            raise KeyboardInterrupt
        advance(self, share, bar)

    model, _ = pair()
    with monkeypatch.context() as patch:
        patch.setattr(recovery_run.Recovery, "_advance", killed)
        with pytest.raises(KeyboardInterrupt):
            recover(model, dense, masks="moving", checkpoint=tmp_path / "run")
    model, _ = pair()
    recover(model, dense, masks="moving", checkpoint=tmp_path / "run")
    for (name, mine), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_weights_in_16_bits_move_too():
    model, dense = pair(dtype=torch.bfloat16)
    before = masks_of(model)
    report = recover(model, dense, masks="moving")
    after = masks_of(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert any(not torch.equal(before[name], after[name]) for name in report.masked)
    assert all(Pattern(2, 4).holds(model.get_parameter(name)) for name in report.masked)


def test_what_has_no_pattern_keeps_its_zeros():
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama"))
    model = copy.deepcopy(dense)
    odd, even = model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.gate_proj.weight
    with torch.no_grad():
        odd[:, ::3] = 0
        even.mul_(Pattern(2, 4).mask(even))
    zeros = odd == 0
    recover(model, dense, masks="moving")
    assert torch.equal(odd == 0, zeros)
    assert Pattern(2, 4).holds(even)


def test_another_kind_is_refused():
    model, dense = pair()
    with pytest.raises(sf.errors.ArgumentError, match="masks"):
        recover(model, dense, masks="learned")
