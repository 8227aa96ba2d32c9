"""`torch.compile(model, backend="sparseflow")`: what it computes, shares, keeps, frees and refuses."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import transformers as tf
from isolated import warm_python
from torch import nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.errors import ArgumentError, EagerGraphWarning, InferenceOnlyError
from sparseflow.integrations import torch as dynamo
from sparseflow.integrations.torch import shared

OPTIONS = {"prune": "magnitude", "policy": "sparse", "skip": ("head",)}


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    """A linear layer, a buffer that counts calls, and on request a graph break."""

    def __init__(self, breaks=False):
        super().__init__()
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.breaks = breaks
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        y = torch.relu(self.up(x))
        if self.breaks:
            torch._dynamo.graph_break()
        return x + self.down(y)


class Stack(nn.Module):
    def __init__(self, layers=2, breaks=False):
        super().__init__()
        self.layers = nn.ModuleList(Block(breaks) for _ in range(layers))
        self.head = nn.Linear(32, 16)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def pruned(model):
    """A copy with all layers pruned but the head."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in twin.named_modules():
            if isinstance(module, nn.Linear) and name != "head":
                module.weight.copy_(sf.prune_24(module.weight))
    return twin


def compiled(model, options=OPTIONS, **arguments):
    return torch.compile(model, backend="sparseflow", options=options, **arguments)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def parts(model):
    """What the graphs of a model share."""
    return list({id(part): part for p in model.parameters() for part in shared._known(p)}.values())


def packed(model):
    """The packed weights of a model's graphs, by name."""
    return {key[0]: weight for part in parts(model) for (key, _), weight in part.bank._packed.items()}


def test_torch_lists_the_backend_without_loading_it(tmp_path):
    code = """
        import sys, torch
        assert "sparseflow" in torch._dynamo.list_backends()
        loaded = {"sparseflow", "torch_mlir"} & set(sys.modules)
        assert not loaded, loaded
    """
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("breaks", [False, True])
def test_equals_the_pruned_model_whose_own_weights_stay(breaks):
    model = Stack(breaks=breaks).eval()
    reference, before = pruned(model), copy.deepcopy(model.state_dict())
    run = compiled(model, fullgraph=not breaks)
    for rows in (4, 4, 7):
        x = torch.randn(rows, 32)
        assert_same(run(x), reference(x))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_model_that_breaks_its_graph_reports_every_layer_once_by_its_name():
    model = Stack(breaks=True).eval()
    compiled(model)(torch.randn(4, 32))
    report = dynamo.report(model)
    assert len(parts(model)) == 1
    decisions = {layer.name: layer.decision for layer in report.layers}
    names = [f"layers.{i}.{name}" for i in (0, 1) for name in ("up", "down")]
    assert decisions == dict.fromkeys(names, "sparse")  # torch.compile leaves what is around the loop alone
    assert report.model["graphs"] == report.model["programs"] == 4
    assert report.model["name"] == "Stack"


def test_layers_that_share_their_code_keep_their_own_weights():
    model = Stack(layers=4, breaks=True).eval()
    reference, x = pruned(model), torch.randn(4, 32)
    assert_same(compiled(model)(x), reference(x))
    other = Stack(layers=4, breaks=True).eval()
    assert_same(compiled(other)(x), pruned(other)(x))
    assert_same(compiled(model)(x), reference(x))


def test_a_branch_on_data_runs_both_ways():
    class Branching(Stack):
        def forward(self, x):
            y = self.layers[0](x)
            return self.head(y) if y.sum() > 0 else self.head(self.layers[1](y))

    model = Branching().eval()
    reference, run = pruned(model), compiled(model)
    for sign in (1, -1):
        x = sign * torch.ones(3, 32) * 5
        assert_same(run(x), reference(x))


def test_buffers_count_in_place():
    model = Stack(breaks=True).eval()
    buffer, run = model.layers[0].calls, compiled(model)
    for _ in range(3):
        run(torch.randn(2, 32))
    assert float(buffer) == 3
    assert model.layers[0].calls is buffer


def test_an_input_written_in_place_is_written_and_returned():
    class Writing(Stack):
        def forward(self, x):
            x.mul_(2)
            return self.head(x), x

    model, x = Writing().eval(), torch.randn(3, 32)
    expected = x * 2
    y, same = compiled(model)(x)
    assert_same(x, expected)
    assert same is x
    assert_same(y, model.head(expected))


def test_dynamic_sizes_and_numbers_take_one_graph_and_one_program():
    class Scaled(Stack):
        def forward(self, x, factor):
            return self.head(self.layers[0](x)) * factor + x.shape[0]

    model = Scaled().eval()
    reference, run = pruned(model), compiled(model, dynamic=True)
    for rows, factor in ((4, 3), (9, 5), (33, 17)):
        x = torch.randn(rows, 32)
        assert_same(run(x, factor), reference(x, factor))
    report = dynamo.report(model)
    assert (report.model["graphs"], report.model["programs"]) == (1, 1)


def test_graphs_and_recompiles_share_what_was_packed_once():
    model = Stack().eval()
    run = compiled(model, dynamic=False)
    run(torch.randn(4, 32))
    first = packed(model)
    run(torch.randn(6, 32))
    compiled(model)(torch.randn(2, 3, 32))
    assert dynamo.report(model).model["graphs"] == 3
    assert {name: id(weight) for name, weight in packed(model).items()} == {
        name: id(weight) for name, weight in first.items()
    }


def test_graphs_over_one_tied_weight_pack_it_once():
    class Tied(Stack):
        def forward(self, x):
            y = self.layers[0].up(x)
            torch._dynamo.graph_break()
            return self.layers[1].up(y[..., :32])

    model = Tied().eval()
    model.layers[1].up.weight = model.layers[0].up.weight
    with torch.no_grad():  # pruning leaves tied weights as they are
        model.layers[0].up.weight.copy_(sf.prune_24(model.layers[0].up.weight))
    reference, x = pruned(model), torch.randn(3, 32)
    assert_same(compiled(model)(x), reference(x))
    assert list(packed(model)) == [("layers.0.up.weight",)]


def test_packed_weights_are_freed_with_the_model():
    model = Stack(breaks=True).eval()
    compiled(model)(torch.randn(4, 32))
    kept = [weakref.ref(weight) for weight in packed(model).values()]
    storages = [weakref.ref(parameter) for parameter in model.parameters()]
    assert kept
    del model
    for _ in range(2):  # the parameters are in cycles, and so are then the programs that end with them
        gc.collect()
    assert [ref() for ref in (*kept, *storages) if ref() is not None] == []


def test_reset_frees_what_was_packed():
    model = Stack().eval()
    compiled(model)(torch.randn(4, 32))
    torch._dynamo.reset()
    gc.collect()
    assert packed(model) == {}


@pytest.mark.parametrize("change", ["in place", "parameter", "data"])
def test_a_changed_weight_is_packed_anew(change):
    model, x = Stack().eval(), torch.randn(4, 32)
    run = compiled(model)
    run(x)
    weight = model.layers[0].up.weight
    with torch.no_grad():
        if change == "in place":
            weight.mul_(-1)
        elif change == "parameter":
            model.layers[0].up.weight = nn.Parameter(-weight)
        else:
            weight.data = -weight.data
    assert_same(run(x), pruned(model)(x))
    names = [f"layers.{i}.{name}" for i in (0, 1) for name in ("up", "down")]
    assert sorted(layer.name for layer in dynamo.report(model).layers) == sorted([*names, "head"])
    assert len({key[0] for part in parts(model) for key in part.bank._packed}) == 4


def test_numbers_of_any_type_are_part_of_the_call():
    class Scaled(Stack):
        def forward(self, x, factor, flag, extra=None):
            y = self.layers[0](x) * factor
            return y + extra["shift"] if flag else y

    model, x = Scaled().eval(), torch.randn(4, 32)
    reference, run = pruned(model), compiled(model)
    for factor in (0.5, 0.75, 2, 3, 1):
        assert_same(run(x, factor, False), reference(x, factor, False))
    assert_same(run(x, 0.5, True, {"shift": x}), reference(x, 0.5, True, {"shift": x}))


def test_options_choose_which_layers_are_sparse():
    model, x = Stack().eval(), torch.randn(4, 32)
    assert_same(compiled(model, {"policy": "sparse"})(x), model(x))
    assert {layer.decision for layer in dynamo.report(model).layers} == {"dense"}
    torch._dynamo.reset()
    compiled(model, {"prune": "magnitude", "skip": ["*.up"], "policy": "sparse"})(x)
    sparse = [layer.name for layer in dynamo.report(model).layers if layer.decision == "sparse"]
    assert sparse == ["layers.0.down", "layers.1.down", "head"]


def test_inductor_runs_the_graphs():
    model, x = Stack(breaks=True).eval(), torch.randn(4, 32)
    assert_same(compiled(model, {**OPTIONS, "inner": "inductor"})(x), pruned(model)(x))


def test_a_function_that_calls_a_model_needs_no_grad():
    model, x = Stack().eval(), torch.randn(4, 32)
    run = compiled(lambda x: model(x) + 1, {**OPTIONS, "skip": ("*.head",)})
    with pytest.raises(InferenceOnlyError, match="weights require gradients"):
        run(x)
    with torch.no_grad():
        assert_same(run(x), pruned(model)(x) + 1)
    names = [layer.name for layer in dynamo.report(model).layers]
    assert "model.layers.0.up" in names


def test_a_module_compiled_in_place_keeps_its_names():
    model, x = Stack().eval(), torch.randn(4, 32)
    reference = pruned(model)
    model.compile(backend="sparseflow", options=OPTIONS)
    assert_same(model(x), reference(x))
    assert "layers.0.up" in {layer.name for layer in dynamo.report(model).layers}


def test_a_transformers_model_equals_what_sf_compile_makes():
    config = tf.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
    )
    model = tf.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 96, (2, 9))
    with torch.no_grad():
        found = torch.compile(
            model, backend="sparseflow", options={"prune": "magnitude", "policy": "sparse"}
        )(ids).logits
        expected = sf.compile(model, prune="magnitude", policy="sparse")(ids).logits
    assert_same(found, expected)


def test_training_mode_is_refused_by_our_own_error():
    model, x = Stack(), torch.randn(4, 32)
    with pytest.raises(InferenceOnlyError, match=r"Stack.*\n.*model.eval\(\)"):
        compiled(model)(x)
    run = compiled(model.eval())
    run(x)
    model.train()
    with pytest.raises(InferenceOnlyError, match="training mode"):
        run(x)


def test_an_input_that_requires_gradients_is_refused():
    with pytest.raises(InferenceOnlyError, match="requires gradients"):
        compiled(Stack().eval())(torch.randn(4, 32, requires_grad=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"pruning": None}}, "the options are prune, skip"),
        ({"options": {"inplace": True}}, "sparseflow.compile"),
        ({"options": {"policy": "fast"}}, "policy must be one of"),
        ({"options": {"skip": "head"}}, "skip must be a sequence"),
        ({"mode": "max-autotune"}, "has no modes"),
    ],
)
def test_bad_options_are_our_own_errors(arguments, message):
    run = torch.compile(Stack().eval(), backend="sparseflow", **arguments)
    with pytest.raises(ArgumentError, match=message):
        run(torch.randn(4, 32))


def test_a_graph_that_writes_a_parameter_runs_eagerly():
    class Writing(Stack):
        def forward(self, x):
            with torch.no_grad():
                self.head.weight.mul_(2)
            return self.head(x)

    model, x = Writing().eval(), torch.randn(4, 32)
    expected = F.linear(x, 2 * model.head.weight, model.head.bias)
    with pytest.warns(EagerGraphWarning, match=r"head\.weight"), torch.no_grad():
        found = compiled(model)(x)
    torch.testing.assert_close(found, expected)


def test_a_model_that_never_ran_has_no_report():
    with pytest.raises(ArgumentError, match="no graph of this model"):
        dynamo.report(Stack())


def test_a_part_compiled_in_place_whose_forward_is_called_says_what_to_do() -> None:
    """torch compiles calls of the module, and nothing of ours runs where somebody calls ``forward``."""
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    model[1].compile(backend="sparseflow")
    model[1].forward(torch.randn(2, 32))
    with pytest.raises(ArgumentError, match="call 1 itself"):
        dynamo.report(model)
