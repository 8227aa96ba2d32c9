"""Pruning where the device's memory is too small for what it would do at once."""

from __future__ import annotations

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.errors import CalibrationError
from sparseflow.pruning.statistics import Statistics
from sparseflow.runtime import is_24

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
ADVICE = r"pass smaller calibration batches, skip=\(…\) the widest layers, or device='cpu'"


def full():
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def held(monkeypatch):
    """Memory that holds the Gram matrices of so many layers at once; how many allocations it refused."""
    room, refused = {"layers": 1}, []
    alive = []
    allocate, release = Statistics.__init__, Statistics.take_gram

    def add(self, layer, **options):
        if len(alive) == room["layers"]:
            alive.clear()  # the exception drops what was gathered
            refused.append(layer.name)
            full()
        alive.append(layer.name)
        allocate(self, layer, **options)

    def take(self):
        alive.remove(self.layer.name)
        return release(self)

    monkeypatch.setattr(Statistics, "__init__", add)
    monkeypatch.setattr(Statistics, "take_gram", take)
    return room, refused


def case():
    torch.manual_seed(0)
    return zoo.text_model("llama"), [{"input_ids": zoo.tokens(2, 12)} for _ in range(2)]


@pytest.mark.parametrize("reconstruct", [None, "layer"])
def test_layers_are_pruned_one_by_one_where_memory_holds_the_statistics_of_one(held, reconstruct):
    _, refused = held
    model, batches = case()
    report = sf.prune(model, "sparsegpt", batches, reconstruct=reconstruct)
    assert refused
    pruned = [layer.name for layer in report.layers if layer.method == "sparsegpt"]
    assert {layer.name for layer in report.layers} - set(pruned) == {"lm_head"}
    assert all(is_24(model.get_submodule(name).weight.detach()) for name in pruned)


def test_memory_too_small_for_one_layer_is_an_error_that_says_what_to_set(held):
    room, refused = held
    room["layers"] = 0
    model, batches = case()
    with pytest.raises(CalibrationError, match=ADVICE):
        sf.prune(model, "sparsegpt", batches)
    assert len(refused) == 2  # a block's layers, then the first alone


@pytest.mark.parametrize("options", [{}, {"max_loss": 0.1}])
def test_a_model_that_memory_does_not_hold_with_a_batch_is_no_wrong_batch(options):
    model, batches = case()
    model.lm_head.register_forward_pre_hook(lambda *_: full())
    with pytest.raises(CalibrationError, match=ADVICE):
        sf.prune(model, "wanda", batches, **options)


def test_a_budgets_own_runs_say_so_too(monkeypatch):
    from sparseflow.pruning.sensitivity import Switchboard

    model, batches = case()
    apply = Switchboard.apply

    def crowded(self, patterns):
        apply(self, patterns)
        model.lm_head.register_forward_pre_hook(lambda *_: full())

    monkeypatch.setattr(Switchboard, "apply", crowded)
    with pytest.raises(CalibrationError, match=ADVICE):
        sf.prune(model, "wanda", batches, max_loss=0.1)
