"""``sf.compile(model, contextual=thresholds)``: layers that leave out inputs near zero, and the report."""

import copy
import json

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.compiler.options import CompileOptions
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold
from sparseflow.contextual.activations.column_policies import ColumnPolicy, ColumnShape, column_policy
from sparseflow.errors import ArgumentError
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.contextual.column import kept_inputs
from sparseflow.runtime.packed import pack


class Block(nn.Module):
    """Two layers that read one input, of which one has a bias, and one that reads theirs."""

    def __init__(self, biased=(False, False)):
        super().__init__()
        self.gate, self.up = nn.Linear(24, 40, bias=biased[0]), nn.Linear(24, 40, bias=biased[1])
        self.down = nn.Linear(40, 24)

    def forward(self, x):
        return self.down(torch.relu(self.gate(x)) * self.up(x))


def thresholds_for(model, threshold=0.5, rate=0.4):
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    return ActivationThresholds(
        {
            name: LayerThreshold(threshold, rate, 0.0, (layer.out_features, layer.in_features))
            for name, layer in layers.items()
        }
    )


def masked(model, x, threshold=0.5):
    """What the model computes when every layer sees zero for small inputs."""
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: (kept_inputs(args[0], threshold),))
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return y


@pytest.mark.parametrize("biased", [(False, False), (True, True), (True, False)])
def test_one_token_leaves_inputs_out_and_a_sequence_reads_all(biased):
    torch.manual_seed(0)
    model = Block(biased).eval()
    compiled = sf.compile(model, contextual=thresholds_for(model), policy="sparse")
    one, sequence = torch.randn(3, 1, 24), torch.randn(1, 3, 24)
    torch.testing.assert_close(compiled(one), masked(model, one))
    assert not torch.allclose(compiled(one), model(one))
    torch.testing.assert_close(compiled(sequence), model(sequence))


def test_layers_of_one_input_and_threshold_are_merged():
    model = Block().eval()
    compiled = sf.compile(model, (torch.randn(1, 1, 24),), contextual=thresholds_for(model), policy="sparse")
    assert compiled.mlir("sparse_gemm").count('"sparse_gemm.column_linear"(') == 2
    assert 'names = ["gate.weight", "up.weight"]' in compiled.mlir("runtime")
    assert "turned" in compiled.mlir("runtime")


@pytest.mark.parametrize("rows", [(1, 1), (5, 1), (1, 3)])
def test_gate_and_residual_are_part_of_their_layers(rows):
    class Residual(Block):
        def __init__(self):
            super().__init__((True, True))
            self.first = nn.Linear(24, 24)

        def forward(self, x):
            h = self.first(x)
            return h + super().forward(h)

    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(*rows, 24)
    compiled = sf.compile(model, contextual=thresholds_for(model), policy="sparse")
    expected = masked(model, x) if rows[1] == 1 else model(x)
    torch.testing.assert_close(compiled(x), expected)
    text = compiled.mlir("sparse_gemm")
    assert 'epilogue = "relu_gated"' in text
    assert not {"torch.aten.relu", "torch.aten.mul.Tensor", "torch.aten.add.Tensor"} & set(text.split())


def quantised(model):
    """A copy of a model whose linear layers have the weights that int8 stores."""
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if isinstance(layer, nn.Linear):
            packed = pack(layer.weight.detach(), "int8")
            layer.weight = nn.Parameter(packed.unpack())
    return twin


@pytest.mark.parametrize("biased", [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_int8(biased, dtype, tmp_path):
    torch.manual_seed(1)
    model = Block(biased).to(dtype).eval()
    one, sequence = torch.randn(3, 1, 24, dtype=dtype), torch.randn(1, 3, 24, dtype=dtype)
    compiled = sf.compile(model, contextual=thresholds_for(model), policy="sparse", format="int8")
    close = {"rtol": 0.03, "atol": 0.03} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    twin = quantised(model)
    for x in (one, sequence):
        expected = masked(twin, x) if x is one else twin(x)
        torch.testing.assert_close(compiled(x), expected, **close)
    compiled.save(tmp_path / "saved")
    loaded = sf.load(tmp_path / "saved")
    assert torch.equal(loaded(one), compiled(one))
    assert torch.equal(loaded(sequence), compiled(sequence))


def test_one_copy_in_int8_lies_k_outermost_and_the_report_has_its_bytes():
    model = Block().eval()
    compiled = sf.compile(
        model, (torch.randn(1, 1, 24),), contextual=thresholds_for(model), policy="sparse", format="int8"
    )
    assert 'format = "int8-columns"' in compiled.mlir("runtime")
    held = [part for part in compiled.graph().modules() if isinstance(part, PackedWeight)]
    assert [tuple(part.shape) for part in held] == [(80, 24), (24, 40)]
    assert all(part.tensors[0].t().is_contiguous() for part in held)
    rows = {layer.name: layer for layer in compiled.report.layers}
    assert rows["up"].bytes == 40 * 24 + 4 * 40
    assert (rows["up"].decision, rows["up"].format) == ("contextual", "int8")
    assert 0 < rows["up"].format_err.weight < 0.01
    assert rows["up"].reason.startswith("in int8, relative error")


def test_int8_is_measured_against_the_dense_dtype():
    shape = ColumnShape(64, 64, torch.float32, torch.device("cpu"), 40, "int8")
    policy = column_policy(shape)
    assert policy.measured
    assert column_policy(shape) is policy
    assert policy is not column_policy(ColumnShape(64, 64, torch.float32, torch.device("cpu"), 40))


def test_formats_that_no_layer_with_a_threshold_can_have():
    model = Block().eval()
    x = torch.randn(1, 1, 24)
    with pytest.raises(ArgumentError, match="int8"):
        sf.compile(model, (x,), contextual=thresholds_for(model), format="fp8")
    with pytest.raises(ArgumentError, match="format"):
        sf.compile(model, format="int8")
    with pytest.raises(ArgumentError, match="format"):
        sf.compile(model, contextual=thresholds_for(model), format="int8-columns")


def test_the_report_says_what_is_left_out(tmp_path):
    model = Block().eval()
    thresholds = thresholds_for(model)
    compiled = sf.compile(model, (torch.randn(1, 1, 24),), contextual=thresholds, policy="sparse")
    rows = {layer.name: layer for layer in compiled.report.layers}
    assert {layer.decision for layer in rows.values()} == {"contextual"}
    assert rows["gate"].reason.startswith("40.0% of the inputs are left out, those below 0.5: a token reads")
    assert "one product of 2: gate, up" in rows["up"].reason
    assert [(r.m_min, r.m_max, r.backend) for r in rows["down"].ranges] == [
        (1, 8, "contextual"),
        (9, None, "dense"),
    ]
    assert compiled.report.model["activations"] == thresholds.to_dict()
    compiled.save(tmp_path / "saved")
    report = json.loads((tmp_path / "saved" / "report.json").read_text())
    saved = ActivationThresholds.from_dict(report["model"]["activations"])
    assert dict(saved) == dict(thresholds)


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(1)
    model, x = Block((True, False)).eval(), torch.randn(1, 1, 24)
    compiled = sf.compile(model, (x,), contextual=thresholds_for(model), policy="sparse")
    compiled.save(tmp_path / "saved")
    assert torch.equal(sf.load(tmp_path / "saved")(x), compiled(x))


def test_in_place_the_model_keeps_one_copy_of_each_weight():
    torch.manual_seed(2)
    model = Block((True, True)).eval()
    other, thresholds = copy.deepcopy(model), thresholds_for(model)
    one, sequence = torch.randn(1, 1, 24), torch.randn(1, 5, 24)
    compiled = sf.compile(model, contextual=thresholds, policy="sparse", inplace=True)
    for x in (sequence, one):
        torch.testing.assert_close(compiled(x), sf.compile(other, contextual=thresholds, policy="sparse")(x))
    assert model.gate.weight.isnan().all()
    assert model.down.weight.isnan().all()


def test_layers_without_a_threshold_stay_dense_and_say_why():
    model = Block().eval()
    thresholds = ActivationThresholds({"down": thresholds_for(model)["down"]})
    x = torch.randn(1, 1, 24)
    free = sf.compile(model, (x,), contextual=thresholds, policy="sparse")
    alone = sf.compile(model, (x,), contextual=thresholds, policy="sparse", format=None)
    reasons = {layer.name: layer.reason for layer in alone.report.layers}
    assert (
        reasons["gate"] == "with format=None only layers with a threshold are sparse, and this one has none"
    )
    assert {layer.name: layer.decision for layer in free.report.layers}["gate"] == "dense"


def test_skipped_layers_read_every_input():
    model = Block().eval()
    thresholds = thresholds_for(model)
    x = torch.randn(1, 1, 24)
    compiled = sf.compile(model, (x,), contextual=thresholds, policy="sparse", skip=("down",))
    found = {layer.name: layer.decision for layer in compiled.report.layers}
    assert found == {"gate": "contextual", "up": "contextual", "down": "dense"}


def test_a_layer_that_is_no_faster_stays_dense(monkeypatch):
    slow = ColumnPolicy(0, ((1, 0.5),))
    monkeypatch.setattr("sparseflow.compiler.column_plans.column_policy", lambda shape: slow)
    model = Block().eval()
    x = torch.randn(1, 1, 24)
    compiled = sf.compile(model, (x,), contextual=thresholds_for(model))
    for layer in compiled.report.layers:
        assert layer.decision == "dense"
        assert layer.reason == "every input is read: leaving inputs out is no faster than dense: M=1 0.50×"
    torch.testing.assert_close(compiled(x), model(x))


def test_measuring_stops_where_nothing_is_gained():
    policy = column_policy(ColumnShape(256, 512, torch.float32, torch.device("cpu"), 90))
    assert policy.measured[0][0] == 1
    assert policy.m_max in (0, 1, 2, 4, 8)
    assert "measured against dense" in policy.why() or "no faster" in policy.why()
    assert all(speedup >= 1 for m, speedup in policy.measured if m <= policy.m_max)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    torch.manual_seed(3)
    model, x = Block().eval().to(dtype), torch.randn(2, 1, 24).to(dtype)
    compiled = sf.compile(model, contextual=thresholds_for(model), policy="sparse")
    torch.testing.assert_close(compiled(x), masked(model, x), rtol=0.05, atol=0.05)


def test_refusals():
    model = Block().eval()
    with pytest.raises(ArgumentError, match="contextual must be what"):
        CompileOptions(contextual={"gate": 0.5})
    with pytest.raises(ArgumentError, match="would cost quality for nothing"):
        CompileOptions(contextual=thresholds_for(model), prune="magnitude")
    other = ActivationThresholds({"other": thresholds_for(model)["down"]})
    with pytest.raises(ArgumentError, match=r"the thresholds are for other, the model's layers are gate"):
        sf.compile(model, (torch.randn(1, 1, 24),), contextual=other)
    wrong = ActivationThresholds({"down": LayerThreshold(0.5, 0.4, 0.0, (24, 41))})
    with pytest.raises(ArgumentError, match="threshold of down"):
        sf.compile(model, (torch.randn(1, 1, 24),), contextual=wrong)
