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
from sparseflow.runtime.formats import find as find_format


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
    items = [[(0.0, 0.0), (rng.random(), rng.random())] for _ in range(200)]
    chosen = Front(items, 25.0).within(25.0)
    cost, worth = totals(items, chosen)
    greedy, room = 0.0, 25.0
    for _, (each, gain) in sorted(items, key=lambda options: options[1][0] / options[1][1]):
        if each <= room:
            room, greedy = room - each, greedy + gain
    assert cost <= 25.0
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


@pytest.mark.parametrize(("shape", "count", "runs"), [((2, 16), 9, 8), ((8, 512), 2, 1), ((4, 300), 3, 3)])
def test_losses_are_measured_on_eight_sequences_or_eight_batches(shape, count, runs):
    ran = []
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)).eval()
    model.register_forward_hook(lambda *_: ran.append(1))
    batches = [torch.randint(5, shape) for _ in range(count)]
    board = Switchboard(Calibration.of(model, batches), find_layers(model, ()))
    assert len(ran) == runs
    assert board.loss() == pytest.approx(0, abs=1e-6)
    assert len(ran) == 2 * runs


def test_a_budget_for_a_model_without_layers_is_no_error():
    model = nn.Sequential(nn.Embedding(5, 4)).eval()
    report = sf.prune(model, "magnitude", [torch.randint(5, (2, 3))], max_loss=0.1, progress=False)
    assert (report.choices, report.frontier, report.notes, report.loss) == ((), (), (), 0.0)


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


FOUR = ("2:4", "4:6", "6:8", "dense")


@pytest.fixture(scope="module")
def mixed():
    """A model within the bytes of 4:6, the model before, its batches and the report."""
    model, batches = calibrated()
    dense = copy.deepcopy(model)
    report = sf.prune(model, "sparsegpt", batches, max_bytes="4:6", patterns=FOUR, progress=False)
    return model, dense, batches, report


def test_layers_of_several_patterns_keep_within_bytes_and_lose_less_than_one_pattern(mixed):
    model, dense, batches, report = mixed
    layers = {layer.name: layer for layer in find_layers(model, ("lm_head",)) if layer.dense is None}
    of_46 = sum(find_format("4:6").nbytes(*layer.shape, "f32") for layer in layers.values())
    chosen = {choice.name: choice.pattern for choice in report.choices}
    assert len(set(chosen.values())) > 2
    assert (
        report.max_bytes
        == of_46
        >= report.nbytes
        == sum(
            layers[name].weight.nbytes
            if pattern == "dense"
            else find_format(pattern).nbytes(*layers[name].shape, "f32")
            for name, pattern in chosen.items()
        )
    )
    for entry in report.layers:
        assert (entry.pattern or "dense") == chosen.get(entry.name, "dense")
    for name, pattern in chosen.items():
        if pattern == "dense":
            assert torch.equal(layers[name].weight, dense.get_parameter(f"{name}.weight"))
        else:
            assert sf.Pattern.of(pattern).holds(layers[name].weight)
    assert report.loss == pytest.approx(kl_of(model, dense, batches), rel=1e-3)
    assert report.loss < report.loss_all["4:6"] < report.loss_all["2:4"]
    assert (report.pattern, report.saved_unit, report.ms) == ("mixed", "bytes", ())


def test_a_mixture_is_made_again_from_its_patterns(mixed):
    model, dense, batches, report = mixed
    again = copy.deepcopy(dense)
    patterns = {layer.name: layer.pattern for layer in report.layers if layer.pattern}
    sf.prune(again, "sparsegpt", batches, pattern=patterns, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_pattern_by_name_is_that_of_the_name_then_of_the_first_that_matches():
    model = zoo.text_model("llama")
    by_name = {"*.mlp.*": "6:8", "model.layers.1.mlp.up_proj": "dense", "*.layers.0.*": "4:6"}
    report = sf.prune(model, pattern=by_name)
    found = {layer.name: layer.pattern for layer in report.layers}
    assert found["model.layers.0.mlp.up_proj"] == "6:8"
    assert found["model.layers.0.self_attn.q_proj"] == "4:6"
    assert found["model.layers.1.mlp.up_proj"] is found["model.layers.1.self_attn.q_proj"] is None
    assert "4:6 (4), 6:8 (5)" in report.table()
    assert next(layer.reason for layer in report.layers if layer.name.endswith("1.mlp.up_proj")) == (
        "`pattern` names none for it"
    )


def test_the_page_of_a_budget_shows_the_frontier(mixed, tmp_path):
    *_, report = mixed
    report.to_html(tmp_path / "frontier.html")
    page = (tmp_path / "frontier.html").read_text()
    assert page.count("<circle") == len(report.frontier) + 1
    assert "Loss against saving" in page
    assert "chosen" in page
    losses = [point.loss for point in report.frontier]
    assert losses[0] == 0 < losses[-1] == pytest.approx(report.loss_all["2:4"], rel=1e-3)
    assert {"frontier", "choices", "nbytes", "expected_loss"} <= report.to_dict()["budget"].keys()


def test_a_loss_is_met_with_several_patterns_and_recovery_allows_more(measured):
    model, batches = calibrated()
    dense = copy.deepcopy(model)
    report = sf.prune(model, "magnitude", batches, max_loss=0.002, patterns=FOUR, progress=False)
    assert 0 < report.loss <= 0.002
    assert report.saved_unit == "µs"
    recovered = sf.prune(
        dense, "magnitude", batches, max_loss=0.002, patterns=FOUR, recovery=3.0, progress=False
    )
    assert report.saved < recovered.saved
    assert recovered.loss <= 0.006
    assert recovered.expected_loss == recovered.loss / 3 <= 0.002


def test_patterns_without_dense_that_lose_too_much_are_an_error_and_the_model_stays_dense(measured):
    model, batches = calibrated()
    before = copy.deepcopy(model)
    with pytest.raises(ArgumentError, match=r'(?s)the gentlest of the patterns cost .* or "dense"'):
        sf.prune(model, "magnitude", batches, max_loss=1e-9, patterns=("2:4", "4:6"), progress=False)
    with pytest.raises(ArgumentError, match="the layers take"):
        sf.prune(model, "magnitude", batches, max_bytes=100, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_a_pattern_that_was_not_measured_makes_all_count_by_bytes(monkeypatch):
    measured_policy = choose([Measurement("float32", 8, 8, 1, 2.0, 9.0, (("cpu", 1.0),), 1, 5, False)])
    monkeypatch.setattr(
        "sparseflow.runtime.products.which.policies",
        lambda shapes, *_, format, **__: dict.fromkeys(
            shapes, measured_policy if format == "2:4" else "no table has it"
        ),
    )
    layers = find_layers(nn.Sequential(nn.Linear(8, 8)), ())
    found = savings(layers, (1,), lambda *_: None, ("2:4", "6:8"))
    assert found.unit == "bytes"
    assert "No measurement of 6:8 exists" in found.note
    assert found.by_layer["0"] == {
        name: 256.0 - find_format(name).nbytes(8, 8, "f32") for name in ("2:4", "6:8")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_loss": 0.1, "max_bytes": "4:6"}, "can't both be given"),
        ({"max_bytes": 0}, "must be bytes > 0, or a pattern's name"),
        ({"max_bytes": "4:7"}, "all but two of an even number"),
        ({"max_loss": 0.1, "patterns": ("dense",)}, "at least one sparsity pattern"),
        ({"max_loss": 0.1, "patterns": ("2:4", "2:4")}, "none twice"),
        ({"max_loss": 0.1, "recovery": 0.5}, "finite number ≥ 1"),
        ({"max_loss": 0.1, "pattern": {"*": "2:4"}}, "which chooses the patterns"),
        ({"patterns": ("2:4", "dense")}, "says how a budget is met"),
        ({"recovery": 2.0}, "says how a budget is met"),
        ({"pattern": {"*.nothing": "2:4"}}, r"sf\.prune\(pattern=.*matches no layer"),
        ({"pattern": {}}, "a mapping from fnmatch patterns"),
        ({"pattern": {"*": "2:4"}, "permute": True}, "blocks of one pattern"),
    ],
)
def test_wrong_choices_of_patterns_are_refused(options, message):
    model, batches = calibrated()
    with pytest.raises(ArgumentError, match=message):
        sf.prune(model, "magnitude", batches, **options)
