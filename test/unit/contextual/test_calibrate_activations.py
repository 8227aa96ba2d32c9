"""``sf.calibrate_activations``: which thresholds it chooses, and what it refuses."""

import copy
import gc
import json
import math

import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import sparseflow as sf
from sparseflow.contextual.activations.divergence import _drawn, costs
from sparseflow.contextual.activations.inputs import changing, shared_inputs
from sparseflow.contextual.activations.magnitudes import Magnitudes
from sparseflow.contextual.activations.rates import RATES, cheapest_rates
from sparseflow.errors import ArgumentError, CalibrationError, InferenceOnlyError
from sparseflow.runtime.contextual.column import SINKS, without_small


class Language(nn.Module):
    """A language model without attention: each token predicts the next by an MLP."""

    def __init__(self, vocabulary=50, hidden=32, neurons=96):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.gate, self.up = nn.Linear(hidden, neurons), nn.Linear(hidden, neurons)
        self.down, self.lm_head = nn.Linear(neurons, hidden), nn.Linear(hidden, vocabulary)

    def forward(self, ids):
        x = self.embed(ids)
        return self.lm_head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Language().eval()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(2**-10, 2**13, width=32) | st.just(0.0), min_size=1, max_size=200),
    share=st.floats(0.001, 1),
)
@example(values=[1.0, 2.0, 2.0], share=1 / 3)
def test_quantiles_are_within_a_bin_of_the_sorted_values(values, share):
    seen, x = Magnitudes(torch.device("cpu")), torch.tensor(values)
    seen.add(-x[: len(x) // 2])
    seen.add(x[len(x) // 2 :])
    limit = float(seen.quantiles(torch.tensor([share]))[0])
    rank = math.ceil(float(torch.tensor(share)) * (1 - 2**-23) * len(x))
    exact = float(x.sort().values[max(rank - 1, 0)])
    assert limit == pytest.approx(exact, rel=0.016, abs=1e-30)


def test_quantiles_of_many_values():
    x = torch.randn(200_000)
    seen = Magnitudes(torch.device("cpu"))
    seen.add(x)
    limits = seen.quantiles(RATES)
    for share, limit in zip(RATES.tolist(), limits.tolist(), strict=True):
        assert (x.abs() < limit).float().mean() == pytest.approx(share, abs=2e-3)
    assert seen.is_finite
    seen.add(torch.tensor([float("nan")]))
    assert not seen.is_finite


def test_layers_of_one_input_share_a_threshold(model):
    found = shared_inputs(model, sf.DEFAULT_SKIP, lambda: model(torch.zeros(1, 8, dtype=torch.long)))
    assert [[layer.name for layer in shared.layers] for shared in found] == [["gate", "up"], ["down"]]
    thresholds = sf.calibrate_activations(model, torch.randint(0, 50, (256,)), rate=0.4)
    assert thresholds["gate"] == thresholds["up"]
    assert set(thresholds) == {"gate", "up", "down"}


def test_a_changed_model_keeps_the_shares_of_its_layers(model):
    ids = torch.randint(0, 50, (512,))
    first = sf.calibrate_activations(model, ids, rate=0.4)
    with torch.no_grad():
        model.embed.weight.mul_(3)
    again = sf.calibrate_activations(model, ids, rate=first)
    assert {name: layer.rate for name, layer in again.items()} == {
        name: layer.rate for name, layer in first.items()
    }
    assert again["up"].threshold == pytest.approx(3 * first["up"].threshold, rel=0.03)


def test_a_threshold_leaves_out_the_share_it_says(model):
    ids = torch.randint(0, 50, (1024,))
    thresholds = sf.calibrate_activations(model, ids, rate=0.4, window=128)
    seen = {}
    for name in thresholds:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda module, args, name=name: seen.setdefault(name, args[0]))
    model(ids.view(8, 128))
    for name, layer in thresholds.items():
        x = seen[name][:, SINKS:]
        assert (x.abs() < layer.threshold).float().mean() == pytest.approx(layer.rate, abs=0.01)
    assert thresholds.rate >= 0.4
    assert thresholds.chosen.rate == pytest.approx(thresholds.rate)


def test_the_cost_is_that_of_the_exact_predictions(model):
    """Without attention a token's predictions are its own: KL divergence can be had exactly."""
    ids = torch.randint(0, 50, (40, 1, 128))
    inputs = shared_inputs(model, sf.DEFAULT_SKIP, lambda: model(ids[0]))
    limits = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.01, 0.03]])
    torch.manual_seed(0)
    estimated = costs(model, inputs, limits, list(ids), model, lambda done: None)
    assert torch.equal(estimated[:, 0], torch.zeros(2).double())
    for place, shared in enumerate(inputs):
        for rate in (1, 2):
            limit = float(limits[place, rate])
            with (
                changing([shared], lambda shared, layer, x, limit=limit: without_small(x, limit)),
                torch.no_grad(),
            ):
                changed = model(ids[:, 0]).log_softmax(-1)
            dense = model(ids[:, 0]).log_softmax(-1)
            exact = (dense.exp() * (dense - changed)).sum(-1)[:, SINKS:].mean().item()
            assert float(estimated[place, rate]) == pytest.approx(exact, rel=0.25)


def test_gradients_and_parameters_stay_as_they_are(model):
    before = copy.deepcopy(model.state_dict())
    sf.calibrate_activations(model, torch.randint(0, 50, (256,)), rate=0.3)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_graph_of_a_window_is_left_alive(model):
    ids = torch.randint(0, 50, (3, 1, 131))
    inputs = shared_inputs(model, sf.DEFAULT_SKIP, lambda: model(ids[0]))
    costs(model, inputs, torch.tensor([[0.0, 0.1], [0.0, 0.01]]), list(ids), model, lambda done: None)
    gc.collect()
    shapes = [tuple(o.shape) for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    assert not [shape for shape in shapes if 131 in shape and len(shape) == 3 and shape != tuple(ids.shape)]


def test_the_loss_bounds_the_measured_rise(model):
    ids = torch.randint(0, 50, (512,))
    small, large = (sf.calibrate_activations(model, ids, loss=loss) for loss in (0.001, 0.02))
    assert small.chosen.perplexity <= 1.001
    assert large.chosen.perplexity <= 1.02
    assert small.rate <= large.rate


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.6, 0.9])
def test_rates_save_enough_and_no_exchange_is_cheaper(rate):
    torch.manual_seed(1)
    price = torch.rand(12, 1) * RATES[None] ** 2 * 10
    weights = torch.randint(1, 5, (12,)).double()
    chosen = torch.tensor(cheapest_rates(price, weights, rate))
    saved = float((weights * RATES[chosen]).sum() / weights.sum())
    assert rate - 1e-6 <= saved <= rate + 0.05
    same = price.masked_fill(RATES[None] < saved - 1e-6, float("inf")).min(1).values.sum()
    assert price.gather(1, chosen[:, None]).sum() <= same


def test_a_model_of_transformers_writes_its_own_text_and_generates(tmp_path):
    torch.manual_seed(0)
    model = zoo.text_model("llama").eval()
    thresholds = sf.calibrate_activations(model, rate=0.4, tokens=64, window=32)
    assert thresholds.chosen.source == "self"
    assert not any("lm_head" in name for name in thresholds)
    thresholds.save(tmp_path / "thresholds.json")
    loaded = sf.ActivationThresholds.load(tmp_path / "thresholds.json")
    assert dict(loaded) == dict(thresholds)
    assert loaded.chosen == thresholds.chosen
    assert "left out" in loaded.table()
    compiled = sf.compile(model, contextual=loaded, policy="sparse")
    ids = torch.randint(3, 30, (1, 5))
    mine = compiled.generate(ids, max_new_tokens=6, do_sample=False)
    assert mine.shape[0] == 1
    assert mine.shape[1] <= 11
    assert compiled.report.model["activations"]["chosen"]["source"] == "self"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 0.1, "rate": 0.3}, "one follows from the other"),
        ({"loss": 0.0}, "must be a rise of the perplexity"),
        ({"rate": 0.95}, "must be a share above 0"),
        ({"rate": 0.0}, "must be a share above 0"),
        ({"tokens": 3}, "needs tokens"),
        ({"window": 8}, "needs tokens"),
        ({"text": "some text"}, "is needed for text"),
        ({"text": "self"}, "can't generate"),
        ({"text": torch.zeros(9, dtype=torch.long)}, "has fewer than 64 tokens"),
        ({"skip": ("*",)}, "reaches no linear layer"),
    ],
)
def test_refusals(model, options, message):
    given = {"text": torch.randint(0, 50, (256,))} | options
    with pytest.raises(ArgumentError, match=message):
        sf.calibrate_activations(model, given.pop("text"), **given)


def test_models_that_cannot_be_calibrated(model):
    ids = torch.randint(0, 50, (256,))
    with pytest.raises(InferenceOnlyError):
        sf.calibrate_activations(copy.deepcopy(model).train(), ids)
    with pytest.raises(CalibrationError, match="refuses the tokens"):
        sf.calibrate_activations(model, ids + 50)
    with pytest.raises(CalibrationError, match="returns no logits"):
        sf.calibrate_activations(nn.Sequential(model, nn.Flatten(0)).eval(), ids)
    with torch.no_grad():
        model.embed.weight[7] = float("nan")
    with pytest.raises(CalibrationError, match="gate"):
        sf.calibrate_activations(model, torch.full((256,), 7))


@pytest.mark.parametrize(
    "document", ["{}", "[]", '{"format": "sparseflow-activation-thresholds", "version": 9}', "no json"]
)
def test_other_files_are_refused(tmp_path, document):
    (tmp_path / "other.json").write_text(document)
    with pytest.raises(ArgumentError, match="can't be read"):
        sf.ActivationThresholds.load(tmp_path / "other.json")
    with pytest.raises(ArgumentError, match="have another form"):
        sf.ActivationThresholds.from_dict({"chosen": None, "layers": {"a": {"threshold": 1}}})


def test_the_command(tmp_path, capsys):
    from sparseflow.cli.main import main

    torch.manual_seed(0)
    zoo.text_model("llama").save_pretrained(tmp_path / "model")
    out = tmp_path / "thresholds.json"
    arguments = ["calibrate", str(tmp_path / "model"), str(out), "--rate", "0.3", "--tokens", "64", "--json"]
    assert main([*arguments, "--window", "32"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == sf.ActivationThresholds.load(out).to_dict()
    assert main(["calibrate", str(tmp_path / "model"), str(tmp_path / "none" / "out.json")]) == 1


def test_tokens_are_drawn_as_often_as_they_are_likely():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, -math.inf, 2.0], [5.0, -math.inf, -math.inf, -math.inf]])
    found = _drawn(logits.repeat_interleave(20000, 0)).view(2, -1)
    shares = torch.stack([found[0].bincount(minlength=4), found[1].bincount(minlength=4)]) / 20000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.015, rtol=0)
    assert shares[0, 2] == 0
