import pytest
import torch
import zoo
from contextual_models import Plain, first, masked, predictors_of, random_predictors
from torch import nn

import sparseflow as sf
from sparseflow.contextual import Predictors, find_model_mlps

MODELS = ["llama", "qwen3", "mistral", "gemma3", "opt", "gpt2", "bert"]


@pytest.mark.parametrize("name", MODELS)
def test_a_contextual_model_gives_what_the_model_gives_over_the_selected_neurons(name):
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name)
    args, kwargs = calls[0]
    mlps = find_model_mlps(model, args, kwargs)
    assert len(mlps) == 2
    predictors = random_predictors(mlps, rate=0.1)
    compiled = sf.compile(model, format=None, contextual=predictors, policy="sparse", progress=False)
    found = first(compiled(*args, **kwargs))
    handles = masked(model, mlps, predictors)
    with torch.no_grad():
        expected = first(model(*args, **kwargs))
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(found, first(model(*args, **kwargs)), rtol=1e-4, atol=1e-5)
    decisions = {layer.name: layer.decision for layer in compiled.report.layers}
    assert all(decisions[mlp.name] == "contextual" for mlp in mlps)
    assert sum(decision == "contextual" for decision in decisions.values()) == sum(
        2 + (mlp.gate is not None) for mlp in mlps
    )


def test_many_rows_run_with_every_neuron():
    model, x = Plain().eval(), torch.randn(64, 16)
    compiled = sf.compile(model, format=None, contextual=predictors_of(model, x, rate=0.1), policy="sparse")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        assert not torch.allclose(compiled(x[:2]), model(x[:2]))


def test_the_other_layers_stay_dense_and_say_why_or_become_2_4():
    model, x = Plain(32, 64, 32).eval(), torch.randn(3, 32)
    predictors = predictors_of(model, x)
    reports = {
        stored: sf.compile(
            model,
            (x,),
            prune="magnitude",
            format=stored,
            contextual=predictors,
            policy="sparse",
            progress=False,
        ).report
        for stored in (None, "2:4")
    }
    heads = {stored: report.layers[-1] for stored, report in reports.items()}
    assert heads[None].decision == "dense"
    assert "in none" in heads[None].reason
    assert heads["2:4"].decision == "sparse"
    unpruned = sf.compile(model, (x,), contextual=predictors, policy="sparse", prune=None)
    assert "not 2:4" in unpruned.report.layers[-1].reason
    assert "2 contextual" in reports[None].table()


def test_an_mlp_without_a_predictor_stays_dense_and_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16)
    ).eval()
    x = torch.randn(2, 16)
    mlps = find_model_mlps(model, (x,), {})
    compiled = sf.compile(model, (x,), format=None, contextual=random_predictors(mlps[:1]), policy="sparse")
    left = [layer for layer in compiled.report.layers if layer.decision == "dense"]
    assert [layer.name for layer in left] == ["3", "5"]
    assert all("no predictor is trained" in layer.reason for layer in left)


def test_a_measured_policy_is_in_the_report():
    model, x = Plain().eval(), torch.randn(2, 16)
    compiled = sf.compile(model, (x,), format=None, contextual=predictors_of(model, x))
    up = next(layer for layer in compiled.report.layers if layer.name == "up")
    assert "M=1 " in up.reason
    assert up.decision in ("contextual", "dense")


def test_inplace_keeps_one_form_of_down_and_still_serves_other_shapes():
    torch.manual_seed(0)
    model, x = zoo.text_model("llama", 1), zoo.tokens(2, 5)
    predictors = random_predictors(find_model_mlps(model, (x,), {}))
    options = {"format": None, "contextual": predictors, "policy": "sparse"}
    kept = sf.compile(model, **options)
    expected = [first(kept(input_ids=ids)) for ids in (x, x[:1])]
    compiled = sf.compile(model, inplace=True, **options)
    for ids, whole in zip((x, x[:1]), expected, strict=True):
        torch.testing.assert_close(first(compiled(input_ids=ids)), whole)
    assert model.model.layers[0].mlp.down_proj.weight.isnan().all()
    assert model.model.layers[0].mlp.up_proj.weight.isfinite().all()


def test_a_saved_contextual_model_gives_the_same(tmp_path):
    model, x = Plain().eval(), torch.randn(2, 16)
    compiled = sf.compile(model, (x,), format=None, contextual=predictors_of(model, x), policy="sparse")
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact")
    torch.testing.assert_close(loaded(x), compiled(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": None}, "nothing is left to be sparse"),
        ({"format": "3:4"}, "format must be one of"),
        ({"format": None, "contextual": {}}, "train_predictor or sf.calibrate_activations returns"),
        ({"format": None, "contextual": Predictors({})}, "train predictors for this model"),
    ],
)
def test_wrong_options_are_refused(options, text):
    with pytest.raises(sf.SparseFlowError, match=text):
        sf.compile(Plain().eval(), (torch.randn(2, 16),), **options)


def test_a_predictor_of_another_size_is_refused():
    model, x = Plain().eval(), torch.randn(2, 16)
    other = predictors_of(Plain(neurons=64).eval(), x)
    with pytest.raises(sf.SparseFlowError, match="64 neurons of 16 features, but the MLP has 48 of 16"):
        sf.compile(model, (x,), format=None, contextual=other)


def test_an_mlp_that_changes_its_width_is_left_alone():
    model = Plain(out=24).eval()
    assert find_model_mlps(model, (torch.randn(2, 16),), {}) == []
