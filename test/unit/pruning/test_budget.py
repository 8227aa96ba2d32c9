"""Pruning within a budget leaves the right layers dense and holds what it promises."""

from __future__ import annotations

import copy
import itertools
import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.pruning import knapsack
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.knapsack import Front
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.savings import savings
from sparseflow.pruning.sensitivity import Switchboard
from sparseflow.runtime.dispatch import Measurement, choose


def brute_force(items, budget):
    choices = itertools.product(*(range(len(options)) for options in items))
    sums = [
        tuple(map(sum, zip(*(o[i] for o, i in zip(items, c, strict=True)), strict=True))) for c in choices
    ]
    return max((worth for cost, worth in sums if cost <= budget), default=None)


def totals(items, chosen):
    return tuple(map(sum, zip(*(o[i] for o, i in zip(items, chosen, strict=True)), strict=True)))


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_worth_what_brute_force_finds(seed, monkeypatch):
    rng = random.Random(seed)
    items = [
        [(rng.expovariate(1), rng.choice([-1.0, 0.0, rng.random(), 1.0])) for _ in range(rng.randint(1, 4))]
        for _ in range(6)
    ]
    limit = rng.random() * 12
    front = Front(items, limit)
    for budget in (limit, limit / 2, 0.0):
        best, chosen = brute_force(items, budget), front.within(budget)
        assert (best is None) == (chosen is None)
        if chosen is not None:
            cost, worth = totals(items, chosen)
            assert cost <= budget + 1e-9
            assert worth == pytest.approx(best)
    monkeypatch.setattr(knapsack, "MOST_STATES", 24)
    chosen = Front(items, limit).within(limit)
    assert chosen is None or totals(items, chosen)[0] <= limit


def test_the_knapsack_takes_the_first_of_equals_and_survives_hundreds():
    assert Front([[(0.0, 0.0), (0.0, 0.0)], [(0.0, 0.0), (0.0, 1.0)]], 0.0).within(0.0) == [0, 1]
    assert Front([], 1.0).within(0.5) == []
    rng = random.Random(1)
    items = [[(0.0, 0.0), (rng.random(), rng.random())] for _ in range(400)]
    chosen = Front(items, 50.0).within(50.0)
    cost, worth = totals(items, chosen)
    greedy, room = 0.0, 50.0
    for _, (each, gain) in sorted(items, key=lambda options: options[1][0] / options[1][1]):
        if each <= room:
            room, greedy = room - each, greedy + gain
    assert cost <= 50.0
    assert worth >= 0.999 * greedy


@pytest.fixture
def measured(monkeypatch):
    """A table in which every layer wins, by more the more weights it has."""

    def row(dtype, n, k, m):
        return Measurement(dtype, n, k, m, 2.0 * n * k, 9.0 * n * k, (("cpu", 1.0 * n * k),), n, 5, False)

    def calibrate(shapes, dtype, **_):
        return {shape: choose([row("float32", *shape, m) for m in (1, 512)]) for shape in shapes}

    table = SimpleNamespace(layer=lambda dtype, n, k: [row(dtype, n, k, m) for m in (1, 512)])
    monkeypatch.setattr("sparseflow.runtime.dispatch.fill_cpu_table.calibrate", calibrate)
    monkeypatch.setattr("sparseflow.runtime.dispatch.Table", lambda **_: table, raising=False)


def calibrated(name="llama"):
    torch.manual_seed(0)
    model = zoo.text_model(name)
    # Random models hardly care about pruning; sharper ones do.
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 4
    return model, [{"input_ids": zoo.tokens(2, 16)} for _ in range(3)]


def kl_of(model, dense, batches):
    with torch.no_grad():
        pairs = [[m(**batch).logits.log_softmax(-1) for m in (dense, model)] for batch in batches]
    return torch.cat([(p.exp() * (p - q)).sum(-1).flatten() for p, q in pairs]).mean().item()


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_the_loss_stays_within_the_budget_and_is_what_the_report_says(measured, method):
    model, batches = calibrated()
    dense = copy.deepcopy(model)
    everything = copy.deepcopy(model)
    sf.prune(everything, method, batches)
    loss_all = kl_of(everything, dense, batches)
    report = sf.prune(model, method, batches, max_loss=loss_all / 3)
    assert report.loss_all == {"2:4": pytest.approx(loss_all, rel=1e-3)}
    assert report.loss == pytest.approx(kl_of(model, dense, batches), rel=1e-3)
    assert 0 < report.loss <= loss_all / 3
    chosen = {choice.name for choice in report.choices if choice.pattern == "2:4"}
    assert 0 < len(chosen) < len(report.choices) == 14
    assert {layer.name for layer in report.layers if layer.method} == chosen
    for layer, other in zip(find_layers(model, ()), find_layers(dense, ()), strict=True):
        assert sf.is_24(layer.weight) == (layer.name in chosen)
        assert torch.equal(layer.weight, other.weight) == (layer.name not in chosen)
    assert all(point.loss >= 0 for point in report.frontier)
    assert [point.saved for point in report.frontier] == sorted(point.saved for point in report.frontier)
    assert (report.frontier[0].loss, report.frontier[0].layers) == (0.0, {"dense": 14})
    assert report.frontier[-1].loss == pytest.approx(loss_all, rel=1e-3)
    assert (report.saved_unit, report.unit) == ("µs", "nats a token")
    shown = report.table()
    assert "µs saved at M = 1, 512" in shown
    left = next(layer for layer in report.layers if not layer.method and layer.name != "lm_head")
    assert "nats a token alone and saves" in left.reason
    assert "2:4 costs 0." in left.reason
    assert report.to_dict()["budget"]["choices"][0]["name"] == report.choices[0].name


def test_a_generous_budget_prunes_all_and_one_of_zero_none(measured):
    model, batches = calibrated()
    plain = copy.deepcopy(model)
    sf.prune(plain, "wanda", batches)
    none = copy.deepcopy(model)
    assert sf.prune(none, "wanda", batches, max_loss=0.0).loss == 0.0
    same = zip(none.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    sf.prune(model, "wanda", batches, max_loss=1e3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_losses_alone_are_those_of_a_model_with_one_layer_pruned():
    model, batches = calibrated()
    dense = copy.deepcopy(model)
    layers = find_layers(model, ("lm_head",))
    board = Switchboard(Calibration.of(model, batches), layers)
    sf.prune(model)
    board.keep("2:4", [layer.name for layer in layers if layer.dense is None])
    alone = board.alone(lambda *_: None)
    name = "model.layers.1.mlp.down_proj"
    twin = copy.deepcopy(dense)
    layer = twin.get_submodule(name)
    layer.weight.data = sf.prune_24(layer.weight.data)
    assert alone[name] == {"2:4": pytest.approx(kl_of(twin, dense, batches), rel=1e-3)}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, x):
        return self.layers(x)


def test_an_encoder_is_held_to_the_cosine_of_its_output_and_unmeasured_layers_to_their_weights():
    torch.manual_seed(0)
    model, batches = Encoder().double().eval(), [torch.randn(9, 12).double() for _ in range(2)]
    dense = copy.deepcopy(model)
    report = sf.prune(model, "magnitude", batches, skip="auto")
    cosine = F.cosine_similarity(dense(torch.cat(batches)), model(torch.cat(batches))).mean().item()
    assert report.loss == pytest.approx(1 - cosine, abs=1e-6)
    assert report.loss <= 0.05 == report.max_loss
    assert report.saved_unit == "bytes"
    assert "No measurement of 2:4 exists" in report.notes[-1]


def test_savings_count_the_nearest_measured_rows(measured):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    found = savings(find_layers(model, ()), (1, 300), lambda *_: None)
    assert found.by_layer == {"0": {"2:4": pytest.approx(2 * 32.0)}, "1": {"2:4": pytest.approx(2 * 16.0)}}


def test_wrong_budgets_are_refused_before_anything_changes():
    model, batches = calibrated()
    before = copy.deepcopy(model)
    cases = [
        ({"max_loss": -1.0, "calibration": batches}, "must be a finite number ≥ 0"),
        ({"max_loss": 0.1}, "needs calibration data to measure losses on"),
        ({"skip": "auto"}, "needs calibration data to measure losses on"),
        ({"skip": "automatic", "calibration": batches}, "skip must be a sequence"),
        ({"max_loss": 0.1, "ms": (0,), "calibration": batches}, "positive whole numbers"),
    ]
    for options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            sf.prune(model, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
