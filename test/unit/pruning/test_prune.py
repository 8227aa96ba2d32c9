"""sf.prune over whole models."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, CalibrationError, InferenceOnlyError, WeightError
from sparseflow.pruning import sparsegpt, wanda
from sparseflow.pruning.linear_layers import find_layers

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
CALIBRATED = ("wanda", "sparsegpt")


def calibrated(name, batches=4):
    torch.manual_seed(0)
    return zoo.text_model(name), [{"input_ids": zoo.tokens(2, 12)} for _ in range(batches)]


def weights_24(model, report):
    found = {layer.name: sf.is_24(layer.weight) for layer in find_layers(model, ())}
    return all(found[layer.name] for layer in report.layers if layer.method)


@pytest.mark.parametrize("method", ["magnitude", *CALIBRATED])
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_a_pruned_model_compiles_to_sparse_layers_without_further_pruning(name, method):
    model, batches = calibrated(name)
    report = sf.prune(model, method, batches)
    assert not any("one pass" in note for note in report.notes)
    pruned = {layer.name for layer in report.layers if layer.method == method}
    assert pruned >= {layer.name for layer in report.layers} - {"lm_head"}
    assert all(0 < layer.rel_err < 1 and 0 < layer.output_err < 1 for layer in report.layers if layer.method)
    compiled = sf.compile(model, policy="sparse", kwargs=batches[0])
    sparse = {layer.name for layer in compiled.report.layers if layer.decision == "sparse"}
    assert sparse == pruned
    found, expected = compiled(**batches[0])[0], model(**batches[0])[0]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_architecture_is_pruned_block_by_block(name):
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name)
    report = sf.prune(model, "sparsegpt", [kwargs or args for args, kwargs in calls])
    assert not any("one pass" in note for note in report.notes)
    assert weights_24(model, report)
    dense = {layer.name for layer in report.layers if layer.method is None}
    assert dense <= {"lm_head", "lm_head.decoder"}


class Chain(nn.Module):
    """Blocks that hand on a tuple, take a keyword that differs from block to block, and see odd K."""

    def __init__(self, width=10, depth=3):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.layers = nn.ModuleList(Shifted(width) for _ in range(depth))
        self.last = nn.Linear(width, 5)

    def forward(self, x):
        x = self.first(x)
        for index, layer in enumerate(self.layers):
            x, _ = layer(x, shift=torch.full((), float(index)))
        return self.last(x)


class Shifted(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 14), nn.Linear(14, width)

    def forward(self, x, *, shift):
        return x + self.down(torch.relu(self.up(x + shift))), None


def chain(dtype=torch.float64):
    torch.manual_seed(1)
    return Chain().to(dtype).eval(), [torch.randn(7, 6, dtype=dtype) for _ in range(5)]


def inputs_of(model, layers, batches):
    seen = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: seen[module].append(args[0])) for layer in layers
    ]
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(parts).detach() for layer, parts in seen.items()}


@pytest.mark.parametrize("method", CALIBRATED)
def test_each_block_is_pruned_from_what_the_pruned_blocks_before_it_give(method):
    model, batches = chain()
    expected = copy.deepcopy(model)
    groups = [[expected.first], *([b.up, b.down] for b in expected.layers), [expected.last]]
    with torch.no_grad():
        for group in groups:
            for layer, x in inputs_of(expected, group, batches).items():
                rule = wanda(layer.weight, x.norm(dim=0)) if method == "wanda" else None
                pruned = sparsegpt(layer.weight, x.T @ x / len(x)) if rule is None else rule
                layer.weight.copy_(pruned)
    report = sf.prune(model, method, batches)
    assert report.notes == ()
    assert weights_24(model, report)
    for (name, found), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-9, atol=1e-9, msg=name)


def test_the_layers_of_a_sequential_are_pruned_one_after_the_other():
    torch.manual_seed(2)
    layers = [nn.Linear(8, 12), nn.ReLU(inplace=True), nn.Linear(12, 8), nn.Linear(8, 4)]
    model, batches = nn.Sequential(*layers).eval(), [torch.randn(6, 8) for _ in range(3)]
    x, expected = torch.cat(batches), []
    for layer in copy.deepcopy(layers):
        if isinstance(layer, nn.Linear):
            layer.weight.data = wanda(layer.weight.detach(), x.norm(dim=0))
            expected.append(layer.weight)
        x = layer(x).detach()
    assert sf.prune(model, "wanda", batches).notes == ()
    for layer, weight in zip((model[0], model[2], model[3]), expected, strict=True):
        torch.testing.assert_close(layer.weight, weight)


def test_the_report_states_measured_errors():
    model, batches = chain()
    dense = copy.deepcopy(model.first)
    layer = sf.prune(model, "wanda", batches).layers[0]
    x, lost = torch.cat(batches), dense.weight - model.first.weight
    assert (layer.name, layer.N, layer.K, layer.method, layer.rows) == ("first", 10, 6, "wanda", 35)
    assert layer.rel_err == pytest.approx((lost.norm() / dense.weight.norm()).item(), rel=1e-5)
    assert layer.output_err == pytest.approx(((x @ lost.T).norm() / (x @ dense.weight.T).norm()).item())


@pytest.mark.parametrize("method", CALIBRATED)
def test_pruning_twice_from_the_same_start_gives_the_same_bits(method):
    (model, batches), (twin, _) = calibrated("llama"), calibrated("llama")
    sf.prune(model, method, batches)
    sf.prune(twin, method, iter(batches))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("method", ["magnitude", *CALIBRATED])
def test_parameters_stay_the_same_objects_without_negative_zeros(method, dtype):
    model, batches = chain(dtype)
    model.last.weight.requires_grad_(False)
    with torch.no_grad():
        model.first.weight[:, :2] *= -0.0
    before = dict(model.named_parameters())
    flags = {name: parameter.requires_grad for name, parameter in before.items()}
    report = sf.prune(model, method, batches)
    assert weights_24(model, report)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert (parameter.dtype, parameter.requires_grad) == (dtype, flags[name])
        if name.endswith("weight"):
            assert not (parameter[parameter == 0].signbit()).any()


def test_batches_may_be_tensors_tuples_or_mappings():
    results = []
    for form in (lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}):
        model, batches = chain()
        sf.prune(model, "sparsegpt", (form(batch) for batch in batches))
        results.append(model.last.weight)
    assert all(torch.equal(weight, results[0]) for weight in results)


class Skipping(Chain):
    """The last block takes what the first gives."""

    def forward(self, x):
        x = self.first(x)
        one, _ = self.layers[0](x, shift=1.0)
        two, _ = self.layers[1](one, shift=1.0)
        three, _ = self.layers[2](two, shift=one)
        return self.last(three)


class Forgetful(Shifted):
    """Gives something else on every call."""

    def forward(self, x, *, shift):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x * self.calls, shift=shift)


def test_blocks_that_are_no_chain_are_pruned_in_one_pass_and_the_report_says_so():
    skipping = Skipping().eval()
    forgetful = chain(torch.float32)[0]
    forgetful.layers[1] = Forgetful(10).eval()
    reversed_ = chain(torch.float32)[0]
    reversed_.layers = nn.ModuleList([reversed_.layers[0], nn.Linear(3, 3)]).eval()
    reversed_.forward = lambda x: reversed_.last(reversed_.layers[0](reversed_.first(x), shift=0.0)[0])
    cases = [
        (skipping, "layers: .*block 2 takes what other blocks"),
        (forgetful, "layers: .*give something else when they run again"),
        (reversed_, "layers: .*don't run once each, in order"),
    ]
    for model, note in cases:
        report = sf.prune(model, "wanda", [torch.randn(20, 6)])
        assert len(report.notes) == 1
        assert re.match(note, report.notes[0])
        assert note.partition(":")[0] in report.table()
        assert weights_24(model, report)


def test_a_layer_that_no_batch_reaches_stays_dense():
    model, batches = chain()
    model.spare = nn.Linear(8, 8, dtype=torch.float64).eval()
    before = model.spare.weight.clone()
    report = sf.prune(model, "sparsegpt", batches)
    spare = report.to_dict()["layers"][-1]
    assert (spare["name"], spare["method"], spare["rel_err"]) == ("spare", None, None)
    assert spare["reason"] == "no calibration batch reached it"
    assert torch.equal(model.spare.weight, before)


def test_fewer_rows_than_inputs_are_noted_with_the_count():
    model, _ = chain()
    report = sf.prune(model, "sparsegpt", [torch.randn(12, 6, dtype=torch.float64)])
    assert report.notes == (
        "3 layers saw fewer calibration rows than they have inputs (layers.0.down: 12 rows, K=14): "
        "calibrate on more.",
    )


@pytest.mark.parametrize("method", CALIBRATED)
def test_too_little_calibration_is_warned_of_with_the_count(method):
    model, _ = chain()
    with pytest.warns(UserWarning, match="layers.0.down: 5 rows, K=14"):
        sf.prune(model, method, [torch.randn(5, 6, dtype=torch.float64)])


def test_a_layer_that_no_batch_reaches_is_pruned_by_magnitude_where_asked():
    model, batches = chain()
    model.spare = nn.Linear(8, 8, dtype=torch.float64).eval()
    expected = sf.prune_24(model.spare.weight.detach())
    report = sf.prune(model, "sparsegpt", batches, unreached="magnitude")
    assert (report.layers[-1].name, report.layers[-1].method) == ("spare", "magnitude")
    assert torch.equal(model.spare.weight, expected)


def test_skipped_and_tied_layers_stay_dense():
    model, batches = calibrated("gpt2")
    head = model.lm_head.weight.clone()
    report = sf.prune(model, "wanda", batches, skip=("*.c_attn",), skip_defaults=False)
    reasons = {layer.name: layer.reason for layer in report.layers if layer.method is None}
    assert reasons["transformer.h.1.attn.c_attn"] == "skipped by the pattern '*.c_attn'"
    assert reasons["lm_head"] == "its weight is shared with transformer.wte"
    assert torch.equal(model.lm_head.weight, head)


def test_the_cache_setting_of_a_model_comes_back():
    model, batches = calibrated("llama", batches=1)
    sf.prune(model, "wanda", batches)
    assert model.config.use_cache is True


def refused(error, match, model=None, method="wanda", calibration=None, **options):
    base, batches = chain(torch.float32)
    model = base if model is None else model
    before = [p.clone() for p in model.parameters()] if isinstance(model, nn.Module) else []
    with pytest.raises(error, match=match):
        sf.prune(model, method, batches if calibration is None else calibration, **options)
    if before:
        same = zip(before, model.parameters(), strict=True)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in same)


def test_wrong_options_are_refused():
    refused(ArgumentError, "method must be one of 'magnitude', 'wanda', 'ria', 'sparsegpt'", method="best")
    refused(ArgumentError, "pattern 1:4: must keep all but two", pattern="1:4")
    refused(ArgumentError, "pattern '2x4': must be a text such as '2:4'", pattern="2x4")
    refused(ArgumentError, "damping=-1.*finite number", damping=-1)
    refused(ArgumentError, "block=6.*multiple of 4", block=6)
    refused(ArgumentError, "skip must be a sequence", skip="lm_head")
    refused(ArgumentError, "reconstruct must be one of 'layer'", reconstruct="model")
    refused(ArgumentError, "unreached must be one of", unreached="drop")
    refused(ArgumentError, "steps=0.*positive number", steps=0)
    refused(ArgumentError, r"device='moon'.*can't be used", device="moon")
    refused(ArgumentError, "seed=-1.*integer ≥ 0", seed=-1)
    refused(ArgumentError, "block layers.0: 'attention' and 'mlp' need", reconstruct="attention")
    refused(ArgumentError, "must be a torch.nn.Module, not int", model=3)


def test_wrong_calibration_is_refused_before_anything_changes():
    model, _ = chain(torch.float32)
    with pytest.raises(ArgumentError, match="needs calibration data, and calibration is None"):
        sf.prune(model, "sparsegpt")
    with pytest.raises(ArgumentError, match=r"reconstruct='layer'.*needs calibration data"):
        sf.prune(model, reconstruct="layer")
    refused(ArgumentError, "iterable of batches, not a Tensor", calibration=torch.ones(2, 6))
    refused(ArgumentError, "holds no batch", calibration=[])
    refused(ArgumentError, "calibration batch 0: is a int", calibration=[3])
    wrong = [torch.ones(2, 6), torch.ones(2, 7)]
    refused(CalibrationError, "calibration batch 1: the model refuses it: RuntimeError", calibration=wrong)
    refused(InferenceOnlyError, "layers.2.1 is in training mode", model=training_part())


def training_part():
    model, _ = chain(torch.float32)
    model.layers[2] = nn.Sequential(model.layers[2], nn.Dropout(0.1)).train()
    return model


def test_weights_and_activations_that_are_not_finite_are_refused_with_the_layers_name():
    model, _ = chain(torch.float32)
    with torch.no_grad():
        model.layers[1].up.weight[2, 3] = torch.nan
    for method in ("magnitude", "wanda", "sparsegpt"):
        refused(WeightError, r"layer layers.1.up: row 2, column 3 is nan", model=model, method=method)
    model, _ = chain(torch.float32)
    with torch.no_grad():
        model.layers[1].up.bias[0] = torch.inf
    refused(CalibrationError, "layer layers.1.down: its inputs hold NaN or Inf", model=model)
    later = [torch.ones(2, 6), torch.full((2, 6), torch.nan)]
    refused(CalibrationError, "layer first: its inputs hold NaN or Inf", calibration=later)
