"""Sparse layers in eager models."""

import copy
import dataclasses
import json
import warnings

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, FormatWarning, WeightError
from sparseflow.nn import SparseLinear, densify, prepare, sparsify
from sparseflow.nn.sparsify_report import SparsifiedLayer
from sparseflow.runtime import Policy
from sparseflow.runtime.dispatch import Measurement, choose
from sparseflow.runtime.products import copies


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64, bias=False)
        self.odd = nn.Linear(66, 64)
        self.lm_head = nn.Linear(64, 96)

    def forward(self, x):
        return self.lm_head(self.down(torch.relu(self.up(x))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mlp().eval()


@pytest.fixture
def x():
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_sparsified_model_computes_what_the_pruned_one_does(model, x):
    pruned = copy.deepcopy(model)
    sf.prune(pruned)
    assert sparsify(model, policy="sparse").replaced == ["up", "down"]
    torch.testing.assert_close(model(x), pruned(x))
    assert densify(model) == ["up", "down"]
    assert torch.equal(model.up.weight, pruned.up.weight)
    assert torch.equal(model(x), pruned(x))


@torch.no_grad()
def test_layers_get_the_format_and_those_that_cannot_have_it_stay_dense(model, x):
    expected = copy.deepcopy(model).bfloat16()
    sf.prune(expected, skip=("odd", "lm_head"))
    other = nn.Sequential(*(nn.Linear(n, 64) for n in (64, 80))).bfloat16()
    why = "N and K must be multiples of 64, got N=64, K=80"
    with pytest.warns(FormatWarning, match=f"can't be stored in 2:4-fp8 and stay dense: 1: {why}") as said:
        report = sparsify(other, policy="sparse", format="2:4-fp8")
    assert [warning.filename for warning in said] == [__file__]
    assert report.layers == (
        SparsifiedLayer("0", 64, 64, "2:4-fp8", ""),
        SparsifiedLayer("1", 64, 80, None, f"not in 2:4-fp8: {why}"),
    )
    with pytest.warns(FormatWarning, match="up, down: it is f32; fp8 replaces"):
        assert sparsify(model, policy="sparse", format="2:4-fp8").replaced == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormatWarning)
        assert sparsify(model.bfloat16(), policy="sparse", format="2:4-fp8").replaced == ["up", "down"]
    assert {type(layer.weight.format).__name__ for layer in (model.up, model.down)} == {"Sparse24Fp8"}
    error = (model(x.bfloat16()).float() - expected(x.bfloat16()).float()).norm()
    assert 0 < error < 0.1 * expected(x.bfloat16()).float().norm()
    state = model.state_dict()
    assert state["up.weight"].dtype == torch.float8_e4m3fn
    again = Mlp().eval().bfloat16()
    sparsify(again, policy="sparse", format="2:4-fp8")
    again.load_state_dict(state)
    assert torch.equal(again(x.bfloat16()), model(x.bfloat16()))
    lost = (model.up.weight.unpack().float() - expected.up.weight.float()).norm()
    assert densify(model) == ["up", "down"]
    assert 0 < lost < 0.1 * expected.up.weight.float().norm()


def test_the_report_has_a_reason_for_every_layer_that_stays_dense(model):
    model.small = nn.Linear(8, 64)
    model.wide = nn.Linear(64, 64, dtype=torch.float64)
    model.tied = nn.Linear(64, 128)
    model.other = nn.Linear(64, 128)
    model.other.weight = model.tied.weight
    model.own = nn.modules.linear.NonDynamicallyQuantizableLinear(64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormatWarning)
        report = sparsify(model, policy="sparse")
    assert report.replaced == ["up", "down"]
    assert report.dense == {
        "odd": "K must be a multiple of 4, got 66",
        "lm_head": "skipped by the pattern 'lm_head'",
        "small": "N and K must be at least 16, got N=64, K=8",
        "wide": "its weight's dtype is float64",
        "tied": "its weight is shared with other",
        "other": "its weight is shared with tied",
        "own": "it is a NonDynamicallyQuantizableLinear, not an nn.Linear itself",
    }
    assert "2 of 9 linear layers replaced" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["layers"][2] == {
        "name": "odd",
        "N": 64,
        "K": 66,
        "format": None,
        "reason": "K must be a multiple of 4, got 66",
    }
    assert sparsify(model, policy="sparse").replaced == [], "the others are sparse already"


def test_layers_that_are_not_24_stay_dense_without_pruning(model):
    sf.prune(model, skip=("up", "lm_head"))
    report = sparsify(model, prune=None)
    assert report.replaced == ["down"]
    assert report.dense["up"] == "its weight is not 2:4, and prune=None"
    assert type(model.up) is nn.Linear


@torch.no_grad()
def test_the_state_dict_is_the_portable_form_and_loads_again(model, x):
    sparsify(model, policy="sparse")
    state = model.state_dict()
    assert state["up.weight"].shape == (128, 32)
    assert state["up.weight.positions"].shape == (128, 8)
    other = Mlp().eval()
    sparsify(other, policy="sparse")
    other.load_state_dict(state)
    assert torch.equal(other(x), model(x))


@torch.no_grad()
def test_memory_fast_keeps_a_dense_weight_where_the_policy_wants_it(model, x):
    sparsify(model, memory="fast")
    expected = densify_copy(model)(x)
    for text, kept in (("1:cpu,8:dense", True), ("1:cpu", False)):
        model.up.set_policy(dataclasses.replace(Policy.parse(text), keeps_dense=kept))
        assert (model.up.weight.dense is not None) is kept
        model.down.set_policy(Policy.parse(text))
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x[:1]), expected[:1])


@pytest.fixture
def recorded(monkeypatch):
    """Measurements by which every layer loses with 8 rows or more unless its dense weight is kept."""

    def calibrate(shapes, dtype, *, progress, memory, format):
        assert dtype == torch.float32
        return {(n, k): choose([times(n, k, 1, 5.0), times(n, k, 8, 18.0)], memory) for n, k in shapes}

    def times(n, k, m, cpu):
        return Measurement("float32", n, k, m, 10.0, 20.0, (("cpu", cpu),), n, 9, False)

    monkeypatch.setattr("sparseflow.runtime.dispatch.fill_cpu_table.calibrate", calibrate)


@torch.no_grad()
@pytest.mark.usefixtures("recorded")
def test_by_default_a_dense_weight_is_kept_where_some_m_would_lose_as_far_as_copies_fit(model, monkeypatch):
    x = torch.randn(9, 64)
    sparsify(model)
    expected = densify_copy(model)(x)
    for free, kept in ((1 << 30, [True, True]), (2 * 128 * 64 * 4, [True, False]), (0, [False, False])):
        monkeypatch.setattr(copies, "free_bytes", lambda _, free=free: free)
        prepare(model)
        assert [layer.weight.dense is not None for layer in (model.up, model.down)] == kept, free
        assert model.up.reason == ""
        for rows in (1, 3, 4, 9):
            torch.testing.assert_close(model(x[:rows]), expected[:rows])
    monkeypatch.setattr(copies, "free_bytes", lambda _: 1 << 30)
    prepare(model, memory="compressed")
    assert model.up.weight.dense is None


@torch.no_grad()
def test_what_is_dense_for_a_reason_keeps_its_weight_as_far_as_that_fits(model, monkeypatch):
    sparsify(model)
    for free, kept in ((2 * 128 * 64 * 4, True), (2 * 128 * 64 * 4 - 2, False)):
        monkeypatch.setattr(copies, "free_bytes", lambda _, free=free: free)
        model.up.set_policy("no table has it")
        assert (model.up.weight.dense is not None) is kept
        assert model.up.reason == "no table has it"


def densify_copy(model):
    other = copy.deepcopy(model)
    densify(other)
    return other


@torch.no_grad()
def test_it_compiles_into_one_graph_once_prepared_and_keeps_its_policy_where_it_stays(model, x):
    sparsify(model, policy="sparse")
    assert prepare(model) == 2
    assert model.to("cpu").up.prepared
    assert not copy.deepcopy(model).bfloat16().up.prepared
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_bad_arguments_and_bad_weights_are_refused(model, x):
    sparsify(model, policy="sparse", skip=("down", "lm_head"))
    with pytest.raises(ArgumentError, match="expected a PackedWeight, got Parameter"):
        SparseLinear(model.down.weight)
    with pytest.raises(ArgumentError, match=r"expected shape \[128\], got \[64\]"):
        SparseLinear(model.up.weight, torch.zeros(64))
    for options in ({"policy": "fast"}, {"memory": "dense"}):
        with pytest.raises(ArgumentError, match="must be one of"):
            SparseLinear(model.up.weight, **options)
        with pytest.raises(ArgumentError, match="must be one of"):
            prepare(model, **options)
    with pytest.raises(ArgumentError, match="tune must be one of"):
        prepare(model, tune=True)
    with pytest.raises(ArgumentError, match="tune must be one of"):
        sparsify(model, tune=False)
    with pytest.raises(ArgumentError, match="prune must be one of"):
        sparsify(model, prune="wanda")
    with pytest.raises(ArgumentError, match="format must be one of '2:4', '4:6', '6:8', '2:4-fp8'"):
        sparsify(model, format="int4")
    with pytest.raises(ArgumentError, match="no 2:4 kernels for device meta"):
        prepare(model.to("meta"))
    broken = Mlp()
    broken.up.weight.data[3, 5] = float("nan")
    with pytest.raises(WeightError, match="up: row 3, column 5"):
        sparsify(broken)


@torch.no_grad()
def test_a_call_starts_no_processes_and_preparing_does(model, x, monkeypatch):
    tuned = []

    def policies(shapes, *_, tune, **options):
        tuned.append(tune)
        return dict.fromkeys(shapes, Policy())

    monkeypatch.setattr("sparseflow.runtime.products.which.policies", policies)
    sparsify(model)
    assert tuned == [], "on a CPU nothing is tuned ahead"
    model(x)
    assert set(tuned) == {"off"}
    tuned.clear()
    prepare(model)
    prepare(model, tune="full")
    assert tuned == ["quick", "full"]


@pytest.mark.parametrize("memory", ["auto", "compressed", "fast"])
def test_a_model_may_be_exported_or_compiled_before_its_first_call(memory, monkeypatch):
    monkeypatch.setattr("sparseflow.nn.linear._policies", lambda shapes, *_: _measured_really(shapes))
    x = torch.randn(3, 32)

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32)).eval()
        sparsify(model, prune="magnitude", memory=memory)
        return model

    with torch.no_grad():
        expected = fresh()(x)
        model = fresh()
        exported = torch.export.export(model, (x,))
        torch.testing.assert_close(exported.module()(x), expected)
        assert not model[0].prepared
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(torch.compile(fresh())(x), expected)


def _measured_really(shapes):
    """Measuring computes with tensors of its own: under a trace they must not be fake."""
    assert torch.ones(2).sum().item() == 2
    return dict.fromkeys(shapes, Policy.parse("1:cpu,2:dense"))


def test_onnx_says_that_packed_layers_have_no_operator_there_and_what_to_do(model, x, monkeypatch):
    sparsify(model, prune="magnitude")
    prepare(model, tune="off")
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(ArgumentError, match="densify"):
        torch.export.export(model, (x,))
    densify(model)
    torch.export.export(model, (x,))
