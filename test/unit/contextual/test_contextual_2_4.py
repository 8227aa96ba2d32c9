"""The same MLP contextual for few rows and 2:4 for many."""

import copy
import fnmatch

import pytest
import torch
import zoo
from contextual_models import Plain, first, masked, predictors_of, random_predictors
from torch import nn

import sparseflow as sf
from sparseflow.compiler import mlp_plans, mlp_products
from sparseflow.contextual import MlpPredictor, Predictors, find_model_mlps
from sparseflow.contextual.row_policies import ContextualPolicy
from sparseflow.runtime.contextual.by_gate import GateThreshold
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.kernels import Choice

BOTH = {"prune": "magnitude", "policy": "sparse", "progress": False}


def pruned_as(report, model):
    """The model with those weights 2:4 of which a report says that they were pruned."""
    model = copy.deepcopy(model)
    names = {layer.name for layer in report.layers if layer.rel_err}
    for name in names:
        layer = model.get_submodule(name)
        flipped = not isinstance(layer, nn.Linear)  # transformers' Conv1D
        with torch.no_grad():
            weight = layer.weight.T if flipped else layer.weight
            layer.weight.copy_(sf.prune_24(weight).T if flipped else sf.prune_24(weight))
    return model, names


def layer_of(compiled, name):
    return next(layer for layer in compiled.report.layers if layer.name == name)


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt", "gpt2"])
def test_few_and_many_rows_give_what_the_pruned_model_gives(name):
    torch.manual_seed(0)
    model = zoo.text_model(name, zoo.fewest(name))
    few, many = {"input_ids": zoo.tokens(2, 5)}, {"input_ids": zoo.tokens(4, 9)}
    mlps = find_model_mlps(model, (), few)
    predictors = random_predictors(mlps, rate=0.1)
    compiled = sf.compile(model, contextual=predictors, **BOTH)
    found = [first(compiled(**call)) for call in (few, many)]
    pruned, names = pruned_as(compiled.report, model)
    layers = {n for mlp in mlps for n in (mlp.name, mlp.down_layer.name)}
    assert layers <= names
    with torch.no_grad():
        torch.testing.assert_close(found[1], first(pruned(**many)), rtol=1e-4, atol=1e-5)
        handles = masked(pruned, find_model_mlps(pruned, (), few), predictors)
        torch.testing.assert_close(found[0], first(pruned(**few)), rtol=1e-4, atol=1e-5)
        for handle in handles:
            handle.remove()
        assert not torch.allclose(found[0], first(pruned(**few)), rtol=1e-4, atol=1e-5)


def test_with_every_neuron_selected_the_rows_do_not_matter():
    model, x = Plain(32, 64, 32).eval(), torch.randn(80, 32)
    compiled = sf.compile(model, contextual=predictors_of(model, x, rate=1.0), **BOTH)
    whole = compiled(x)
    torch.testing.assert_close(torch.cat([compiled(part) for part in x.split(16)]), whole)
    assert compiled(x[:0]).shape == (0, 32)
    with torch.no_grad():
        torch.testing.assert_close(whole, pruned_as(compiled.report, model)[0](x))
    assert layer_of(compiled, "down").rel_err > 0.1


def test_a_threshold_of_the_gate_has_2_4_products_too():
    model, x = zoo.text_model("llama"), zoo.tokens(4, 9)
    names = [mlp.name for mlp in find_model_mlps(model, (), {"input_ids": x})]
    gates = Predictors({name: MlpPredictor(GateThreshold(-1.0), 1.0) for name in names})
    compiled = sf.compile(model, contextual=gates, **BOTH)
    few, many = first(compiled(input_ids=x[:1])), first(compiled(input_ids=x))
    torch.testing.assert_close(few, many[:1], rtol=1e-4, atol=1e-5)


def test_the_report_counts_both_forms_and_the_ir_says_which_products_are_2_4():
    model, x = Plain(32, 64, 32).eval(), torch.randn(2, 32)
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), skip=("up",), **BOTH)
    up, down = layer_of(compiled, "up"), layer_of(compiled, "down")
    assert up.rel_err == 0
    assert "for more rows dense: skipped by the pattern 'up'" in up.reason
    assert [r.backend for r in up.ranges] == ["contextual", "dense"]
    assert "pruned by magnitude, for more rows 2:4" in down.reason
    assert [(r.m_min, r.backend) for r in down.ranges] == [(1, "contextual"), (33, "cpu")]
    packed = 32 * 32 * 4 + 32 * 8
    assert down.bytes == down.bytes_dense + packed
    text = compiled.mlir()
    assert 'down_policy = ""' in text
    assert "up_policy" not in text
    assert "turned" in compiled.mlir("runtime")


def test_unpruned_weights_stay_dense_where_nothing_may_be_pruned():
    model, x = Plain(32, 64, 32).eval(), torch.randn(2, 32)
    with torch.no_grad():
        model.up.weight.copy_(sf.prune_24(model.up.weight))
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **{**BOTH, "prune": None})
    assert "already 2:4, for more rows 2:4" in layer_of(compiled, "up").reason
    assert "for more rows dense: its weight is not 2:4" in layer_of(compiled, "down").reason
    many = torch.randn(40, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(many), model(many))


def test_weights_that_mlps_share_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(Plain(32, 64, 32).up, nn.ReLU(), nn.Linear(64, 32))
    model = nn.Sequential(model, copy.deepcopy(model)).eval()
    model[1][2].weight = model[0][2].weight
    with torch.no_grad():  # pruning leaves tied weights as they are
        model[0][2].weight.copy_(sf.prune_24(model[0][2].weight))
    x = torch.randn(40, 32)
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **BOTH)
    assert "shared by the MLPs of 0.0, 1.0" in layer_of(compiled, "0.2").reason
    assert "for more rows 2:4" in layer_of(compiled, "1.0").reason
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), pruned_as(compiled.report, model)[0](x))


def policy_of(points):
    """A policy by the speed-ups at some M's, sparse where they are above 1."""
    starts = [(m, Choice("cpu" if speed > 1 else "dense")) for m, speed in points.items()]
    return Policy.of([(1, starts[0][1]), *starts[1:]], points, lambda m, choice: points[m])


def measured(monkeypatch, by_shape, selecting):
    """Have these figures measured: of 2:4 products by their shapes, of selecting by the rows."""
    found = {shape: policy_of(points) for shape, points in by_shape.items()}
    monkeypatch.setattr(mlp_products, "shape_policies", lambda shapes, *_: {s: found[s] for s in shapes})
    m_max = max((m for m, speed in selecting if speed >= 1), default=0)
    monkeypatch.setattr(mlp_plans, "measured_policy", lambda group: ContextualPolicy(m_max, selecting))


AUTO = {"prune": "magnitude", "progress": False, "skip": ("head",)}


def test_a_product_that_loses_for_many_rows_runs_densely_and_is_pruned_all_the_same(monkeypatch):
    model, x = Plain(32, 64, 32).eval(), torch.randn(2, 32)
    slow, fast = {1: 1.4, 4: 1.2, 64: 0.9}, {1: 0.8, 4: 0.9, 64: 1.5}
    measured(monkeypatch, {(64, 32): fast, (32, 64): slow}, ((1, 3.0), (4, 2.0), (8, 0.9)))
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **AUTO)
    up, down = layer_of(compiled, "up"), layer_of(compiled, "down")
    assert [(r.m_min, r.m_max, r.backend) for r in up.ranges] == [
        (1, 4, "contextual"),
        (5, 63, "dense"),
        (64, None, "cpu"),
    ]
    assert up.ranges[-1].speedup == 1.5
    assert up.measured == ((1, 3.0), (4, 2.0), (64, 1.5))
    assert "no faster than dense at any measured M from 64 to 64: at best 0.90×" in down.reason
    assert down.rel_err > 0
    assert "pruned by magnitude; for more rows dense" in down.reason
    assert down.bytes == down.bytes_dense
    many = torch.randn(70, 32)
    for layer in (model.up, model.down):
        layer.weight.data = sf.prune_24(layer.weight.data)
    with torch.no_grad():
        torch.testing.assert_close(compiled(many), model(many))


def test_selecting_has_to_beat_2_4_too(monkeypatch):
    model, x = Plain(32, 64, 32).eval(), torch.randn(2, 32)
    measured(
        monkeypatch, {(64, 32): (both := {1: 1.5, 4: 1.5}), (32, 64): both}, ((1, 3.0), (4, 1.2), (8, 1.1))
    )
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **AUTO)
    up = layer_of(compiled, "up")
    assert [(r.m_min, r.backend) for r in up.ranges] == [(1, "contextual"), (2, "cpu")]
    assert "measured against dense and 2:4" in up.reason
    assert "M=4 1.20× (2:4 1.50×)" in up.reason


def test_an_mlp_that_selects_for_no_rows_is_2_4_and_says_why(monkeypatch):
    model, x = Plain(32, 64, 32).eval(), torch.randn(2, 32)
    measured(monkeypatch, {(64, 32): (both := {1: 2.0, 4: 2.0}), (32, 64): both}, ((1, 1.5),))
    monkeypatch.setattr("sparseflow.compiler.measured_policies.shape_policies", mlp_products.shape_policies)
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **AUTO)
    for name in ("up", "down"):
        layer = layer_of(compiled, name)
        assert layer.decision == "sparse"
        assert "not contextual: no faster than dense and 2:4" in layer.reason


def test_inplace_releases_what_is_packed_and_still_serves_other_shapes():
    torch.manual_seed(0)
    model, x = zoo.text_model("llama", 1), zoo.tokens(4, 9)
    predictors = random_predictors(find_model_mlps(model, (), {"input_ids": x}))
    calls = (x[:2], x, x[:1, :1])
    kept = sf.compile(model, contextual=predictors, **BOTH)
    expected = [first(kept(input_ids=ids)) for ids in calls]
    compiled = sf.compile(model, inplace=True, contextual=predictors, **BOTH)
    for ids, whole in zip(calls, expected, strict=True):
        torch.testing.assert_close(first(compiled(input_ids=ids)), whole)
    for name, parameter in model.named_parameters():
        if fnmatch.fnmatch(name, "*.mlp.*.weight"):
            assert parameter.isnan().all()


def test_a_saved_model_runs_both_ways_and_has_each_weight_once_on_disk(tmp_path):
    model, x = Plain(64, 256, 64).eval(), torch.randn(40, 64)
    compiled = sf.compile(model, (x,), contextual=predictors_of(model, x), **BOTH)
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact")
    for rows in (1, 3, 40):
        assert torch.equal(loaded(x[:rows]), compiled(x[:rows]))
    weights = sum(file.stat().st_size for file in (tmp_path / "artifact").glob("*.safetensors"))
    dense = 4 * (2 * 64 * 256 + 64 * 64)
    assert weights < 0.75 * dense  # packed, with the predictor
