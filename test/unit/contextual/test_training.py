import math

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.contextual import Predictors, find_model_mlps, train_predictor
from sparseflow.contextual.judging import judge, selected
from sparseflow.contextual.selection import parameter_for, top, union_rates
from sparseflow.contextual.training import usual_rank


class Mlp(nn.Module):
    """An MLP whose neurons come in groups: a group is wanted by the inputs on its side."""

    def __init__(self, hidden=16, neurons=64, gated=True):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.gate = nn.Linear(hidden, neurons) if gated else None
        self.up, self.down = nn.Linear(hidden, neurons), nn.Linear(neurons, hidden)
        directions = torch.randn(4, hidden).repeat_interleave(neurons // 4, 0)
        with torch.no_grad():
            (self.up if self.gate is None else self.gate).weight.copy_(
                directions + 0.1 * torch.randn_like(directions)
            )

    def forward(self, x):
        x = self.norm(x)
        if self.gate is None:
            return self.down(torch.relu(self.up(x)))
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mlp().eval()


@pytest.fixture
def data():
    return list(torch.randn(4, 200, 16, generator=torch.Generator().manual_seed(1)))


def test_trained_predictors_find_most_of_what_matters(model, data):
    predictors = train_predictor(model, data, rate=0.25, rank=8, steps=200, dtype="float32")
    figures = predictors["up"].figures
    assert figures.active == pytest.approx(0.25)
    assert figures.recall > 0.6
    assert figures.precision > 0.6
    assert figures.oracle_coverage >= figures.coverage > 0.75 * figures.oracle_coverage
    assert figures.output_error >= figures.oracle_error
    assert figures.union[1] == pytest.approx(0.25)
    assert figures.union[32] > figures.union[2] > figures.union[1]


def test_training_improves_on_least_squares(model, data):
    recalls = [
        train_predictor(model, data, rank=4, steps=steps, dtype="float32")["up"].figures.recall
        for steps in (0, 200)
    ]
    assert recalls[1] > recalls[0] > 0.5


def test_training_repeats_under_a_seed(model, data):
    one, same, other = (
        train_predictor(model, data, steps=20, seed=seed)["up"].predictor for seed in (1, 1, 2)
    )
    assert torch.equal(one.b, same.b)
    assert not torch.equal(one.b, other.b)


@pytest.mark.parametrize("rule", ["threshold", "top_k", "statistical"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_every_rule_selects_the_share_asked_for(model, data, rule, dtype):
    layer = train_predictor(model, data, rate=0.3, steps=20, rule=rule, dtype=dtype)["up"]
    assert layer.figures.active == pytest.approx(0.3, abs=0.01)
    assert layer.predictor.a.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("gated", [True, False])
def test_gates_select_without_training(gated, data, tmp_path):
    torch.manual_seed(0)
    model, x = Mlp(gated=gated).eval(), data[0][:1]
    predictors = train_predictor(model, data, rate=0.4, rule="gate")
    layer = predictors["up"]
    assert layer.figures.active == pytest.approx(0.4, abs=0.01)
    assert layer.figures.coverage > 0.8 * layer.figures.oracle_coverage
    predictors.save(tmp_path / "p.safetensors")
    loaded = Predictors.load(tmp_path / "p.safetensors")
    compiled = sf.compile(model, format=None, contextual=loaded, policy="sparse")
    with torch.no_grad():
        normed = model.norm(x)
        active = (
            torch.relu(model.up(normed)) if model.gate is None else nn.functional.silu(model.gate(normed))
        )
        hidden = active if model.gate is None else active * model.up(normed)
        torch.testing.assert_close(
            compiled(x), model.down(hidden * (active.abs() > layer.predictor.parameter))
        )
        torch.testing.assert_close(compiled(data[0]), model(data[0]))
    assert sf.compile(model, (x,), format=None, contextual=loaded).report.layers


def test_the_inputs_are_those_after_the_norm_and_the_model_is_unchanged(model, data):
    scaled = [1000 * x for x in data]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, other = (
        train_predictor(model, batches, steps=0, dtype="float32")["up"] for batches in (data, scaled)
    )
    torch.testing.assert_close(one.predictor.a, other.predictor.a, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_rates_go_by_name_and_what_none_names_is_left_out():
    torch.manual_seed(0)
    model, data = nn.Sequential(Mlp(), Mlp(gated=False), Mlp()).eval(), [torch.randn(64, 16)]
    predictors = train_predictor(model, data, rate={"0.*": 0.5, "1.*": 0.125}, steps=0)
    assert {name: layer.rate for name, layer in predictors.items()} == {"0.up": 0.5, "1.up": 0.125}
    assert predictors["1.up"].predictor.parameter == 8


def test_a_trained_model_compiles_and_stays_close(model, data):
    predictors = train_predictor(model, data, rate=0.5, rank=8, dtype="float32")
    compiled = sf.compile(model, format=None, contextual=predictors, policy="sparse")
    x = data[0][:1]
    with torch.no_grad():
        lost = (compiled(x) - model(x)).norm() / model(x).norm()
    assert lost < 3 * predictors["up"].figures.output_error + 0.02
    assert "of all contributions to the output" in compiled.report.layers[0].reason


def test_predictors_survive_their_file(model, data, tmp_path):
    predictors = train_predictor(model, data, steps=0, dtype="int8", rule="statistical")
    predictors.save(tmp_path / "p.safetensors")
    loaded = Predictors.load(tmp_path / "p.safetensors")
    assert loaded.table() == predictors.table()
    assert loaded.to_dict() == predictors.to_dict()
    x = data[0][:5]
    for one, other in zip(
        loaded["up"].predictor.select(x), predictors["up"].predictor.select(x), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, None])
def test_a_file_that_holds_no_predictors_is_refused(tmp_path, content):
    path = tmp_path / "p.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(sf.SparseFlowError, match="can't be read"):
        Predictors.load(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 0}, "share of the neurons"),
        ({"rate": {"*": 2}}, "share of the neurons"),
        ({"rate": {"nothing": 0.5}}, "names none of the model's MLPs: up"),
        ({"rule": "best"}, "rule must be one of"),
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"rank": 0}, "whole number of at least 1"),
        ({"steps": -1}, "whole number of at least 0"),
        ({"data": []}, "holds no batch"),
        ({"data": [torch.randn(4, 16)]}, "saw 4 tokens"),
        ({"data": [torch.full((20, 16), math.nan)]}, "NaN or Inf"),
        ({"data": [torch.randn(4, 7)]}, "capture it"),
    ],
)
def test_what_can_not_be_trained_is_refused(model, data, options, text):
    batches = options.pop("data", data)
    with pytest.raises(sf.SparseFlowError, match=text):
        train_predictor(model, batches, **options)


def test_a_model_in_training_mode_or_without_mlps_is_refused(model, data):
    with pytest.raises(sf.SparseFlowError, match="training mode"):
        train_predictor(model.train(), data)
    with pytest.raises(sf.SparseFlowError, match="no MLP"):
        train_predictor(nn.Linear(16, 16).eval(), data)


def test_contributions_are_the_lengths_that_neurons_add(model, data):
    (mlp,) = find_model_mlps(model, (data[0],), {})
    x = model.norm(data[0][:3]).detach()
    hidden = mlp.hidden(x)
    vectors = hidden[:, :, None] * model.down.weight.detach().t()
    torch.testing.assert_close(mlp.contributions(hidden), vectors.norm(dim=2))
    torch.testing.assert_close(vectors.sum(1) + model.down.bias, model(data[0][:3]))


def test_selecting_everything_loses_nothing(model, data):
    (mlp,) = find_model_mlps(model, (data[0],), {})
    mask = torch.ones(20, 64, dtype=torch.bool)
    figures = judge(mlp, model.norm(data[0][:20]).detach(), mask, 1.0, torch.Generator())
    assert (figures.precision, figures.recall, figures.coverage, figures.output_error) == (1, 1, 1, 0)


def test_lists_become_masks_and_unions_grow():
    mask = torch.rand(40, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    neurons = (~mask).to(torch.uint8).sort(dim=1, stable=True).indices.int()
    assert torch.equal(selected(neurons, mask.sum(1).int()), mask)
    neurons[~(torch.arange(8) < mask.sum(1, keepdim=True))] = -1
    assert torch.equal(selected(neurons, mask.sum(1).int()), mask)
    unions = union_rates(mask, (1, 2, 40, 64), torch.Generator().manual_seed(0))
    assert unions[1] == pytest.approx(float(mask.float().mean()))
    assert unions[40] == float(mask.any(0).float().mean())
    assert 64 not in unions


def test_parameters_hit_the_rate_on_the_rows_they_are_set_on():
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    assert float((scores > parameter_for(scores, "threshold", 0.2)).float().mean()) == pytest.approx(0.2)
    assert parameter_for(scores, "top_k", 0.2) == 8
    assert int(top(scores, 0.2).sum()) == 50 * 8


@pytest.mark.parametrize(("neurons", "rank"), [(8, 1), (300, 12), (400, 16), (8192, 336), (14336, 576)])
def test_the_usual_rank_is_read_in_whole_pieces(neurons, rank):
    assert usual_rank(neurons) == rank
