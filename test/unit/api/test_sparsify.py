"""`sf.sparsify`: from dense to pruned and recovered, for a speed or within a loss."""

from __future__ import annotations

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.api import sparsify as sparsifying
from sparseflow.errors import ArgumentError, QualityWarning
from sparseflow.pruning import candidates
from sparseflow.pruning.savings import Savings

QUICK = {"length": 16, "minutes": 0.1, "method": "magnitude", "progress": False}


def dense_model():
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 96, (2, 16), generator=generator)} for _ in range(4)]


def saving(us):
    def measured(layers, rows, step, patterns):
        note = "" if us else "No layer was measured to be faster sparse: bytes count."
        return Savings(
            {layer.name: dict.fromkeys(patterns, us) for layer in layers}, "µs" if us else "bytes", note
        )

    return measured


def test_a_loss_is_kept_and_layers_are_pruned():
    model = dense_model()
    report = sf.sparsify(model, batches(), max_loss=0.3, **QUICK, text=batches())
    assert report.reached
    assert report.loss <= 0.3
    assert any(layer.method for layer in report.pruning.layers)
    assert report.recovery.zeros > 0
    assert report.to_dict()["asked"] == ["max_loss", 0.3]


def test_a_loss_that_is_not_reached_is_a_warning_and_in_the_report(monkeypatch):
    monkeypatch.setattr(sparsifying, "TRIES", 2)
    recover = sparsifying.recover

    def poor(*args, **kwargs):
        import dataclasses

        return dataclasses.replace(recover(*args, **kwargs, steps=1), after=0.4)

    monkeypatch.setattr(sparsifying, "recover", poor)
    with pytest.warns(QualityWarning, match="was not reached: it is 0.4"):
        report = sf.sparsify(dense_model(), batches(), max_loss=0.3, **QUICK, text=batches())
    assert not report.reached
    assert len(report.notes) == 2


def test_the_layers_that_lose_least_are_pruned_for_a_speed(monkeypatch):
    monkeypatch.setattr(candidates, "savings", saving(100.0))
    times = iter([[700e-6], [1e-3, 0.5e-3]])
    monkeypatch.setattr(sparsifying, "_seconds", lambda models, call: next(times))
    model = dense_model()
    report = sf.sparsify(model, batches(), target_speedup=2.0, **QUICK, text=batches())
    pruned = [layer.name for layer in report.pruning.layers if layer.method]
    assert len(pruned) == 4, "350 µs of 700 are four layers' 100"
    assert report.expected_speedup == pytest.approx(700 / 300)
    assert (report.measured_speedup, report.reached) == (2.0, True)


@pytest.mark.parametrize(
    ("us", "says"), [(1.0, "all layers together save 14 µs"), (0.0, "no layer was measured")]
)
def test_a_speed_that_no_layers_give_is_an_error_and_the_model_stays_dense(monkeypatch, us, says):
    monkeypatch.setattr(candidates, "savings", saving(us))
    monkeypatch.setattr(sparsifying, "_seconds", lambda models, call: [1e-3])
    model = dense_model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ArgumentError, match=says):
        sf.sparsify(model, batches(), target_speedup=2.0, **QUICK)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_loss_that_allows_no_layer_is_an_error_and_the_model_stays_dense():
    model = dense_model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ArgumentError, match="no layer can be pruned"):
        sf.sparsify(model, batches(), max_loss=1e-9, **QUICK)
    assert all(map(torch.equal, before, model.parameters()))


def test_wrong_targets_are_refused():
    model = dense_model()
    for wrong in ({}, {"max_loss": 0.1, "target_speedup": 2.0}, {"max_loss": 0.0}, {"target_speedup": 0.9}):
        with pytest.raises(ArgumentError, match=r"sf\.sparsify"):
            sf.sparsify(model, batches(), **wrong)
    with pytest.raises(ArgumentError, match="positive whole numbers"):
        sf.sparsify(model, batches(), max_loss=0.1, ms=(0,))
