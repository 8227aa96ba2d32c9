"""Pruning decides what a model is, dispatch only how it runs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.errors import ArgumentError, UnprunedWarning
from sparseflow.runtime.dispatch import Policy

POLICIES = ("1:cpu", "1:dense", "1:cpu,4:dense", "1:dense,3:cpu")


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let every shape have the same measured policy, which pays or doesn't."""

    def choose(text: str) -> None:
        policy = Policy.parse(text)
        pays = "cpu" in text
        found = type(policy)(policy.ranges, ((1, 2.0 if pays else 0.5),))
        monkeypatch.setattr(type(found), "pays", property(lambda _: pays))
        monkeypatch.setattr(
            "sparseflow.runtime.dispatch.fill_cpu_table.calibrate",
            lambda shapes, *_, **__: dict.fromkeys(shapes, found),
        )

    return choose


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(32, 48), nn.Linear(32, 48)
        self.down, self.head = nn.Linear(48, 32), nn.Linear(32, 20)
        self.small = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.small(F.gelu(self.head(y)))


@pytest.mark.parametrize("memory", ["auto", "compressed", "fast"])
@pytest.mark.parametrize("inplace", [False, True])
def test_one_result_under_every_table(dispatch: Callable[[str], None], memory: str, inplace: bool) -> None:
    torch.manual_seed(0)
    model = Gated().eval()
    expected = copy.deepcopy(model)
    sf.prune(expected, skip=("small",))
    for policy in POLICIES:
        dispatch(policy)
        compiled = sf.compile(copy.deepcopy(model), prune="magnitude", memory=memory, inplace=inplace)
        for rows in (1, 2, 7, 3):
            x = torch.randn(rows, 32)
            with torch.no_grad():
                torch.testing.assert_close(compiled(x), expected(x), rtol=1e-4, atol=1e-5)
        for layer in compiled.report.layers:
            pruned = layer.name != "small"
            assert (layer.rel_err > 0.05) is pruned, layer
            assert not pruned or "pruned by magnitude" in layer.reason


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_transformers_model_under_two_tables(dispatch: Callable[[str], None], name: str) -> None:
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name)
    found = []
    for policy in ("1:cpu", "1:dense"):
        dispatch(policy)
        compiled = sf.compile(model, prune="magnitude")
        with torch.no_grad():
            found.append([compiled(*args, **kwargs)[0] for args, kwargs in calls])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_quantisation_is_not_decided_by_dispatch_either(dispatch: Callable[[str], None]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval().bfloat16()
    x = torch.randn(5, 64).bfloat16()
    found = []
    for policy in ("1:cpu", "1:dense"):
        dispatch(policy)
        with torch.no_grad():
            found.append(sf.compile(model, prune="magnitude", format="2:4-fp8")(x))
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


def test_two_programs_read_one_pruned_weight(dispatch: Callable[[str], None]) -> None:
    dispatch("1:dense")
    model = Gated().eval()
    compiled = sf.compile(model, prune="magnitude")
    x = torch.randn(6, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x[0]), compiled(x)[0], rtol=1e-4, atol=1e-5)
    assert compiled.report.model["programs"] == 2


def test_a_layer_that_one_program_has_packed_and_another_dense_is_pruned_in_both(monkeypatch) -> None:
    model, x = Gated().eval(), torch.randn(6, 32)
    expected = copy.deepcopy(model)
    sf.prune(expected, skip=("small",))
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected(x), rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(
            "sparseflow.compiler.run_phases.measured_policies",
            lambda module, *_: (
                {},
                {f"f32:{n}x{k}": "so" for n, k in ((96, 32), (48, 32), (32, 48), (20, 32))},
            ),
        )
        torch.testing.assert_close(compiled(x[0]), expected(x[0]), rtol=1e-4, atol=1e-5)


def test_pruning_nothing_is_said_once_and_changes_nothing() -> None:
    model, x = Gated().eval(), torch.randn(3, 32)
    compiled = sf.compile(model)
    with pytest.warns(UnprunedWarning, match="no weight of Gated is 2:4.*sf.prune.*prune='magnitude'"):
        found = compiled(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnprunedWarning)
        compiled(x[0])
    torch.testing.assert_close(found, model(x))
    sf.prune(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UnprunedWarning)
        sf.compile(model)(x)
        sf.compile(nn.ReLU().eval())(x)


def test_pruning_by_magnitude_is_warned_of_once_with_its_cost() -> None:
    model, x = Gated().eval(), torch.randn(3, 32)
    expected = copy.deepcopy(model)
    pruned = [layer for layer in sf.prune(expected, skip=("small",)).layers if layer.rel_err is not None]
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    mean = sum(layer.rel_err or 0.0 for layer in pruned) / len(pruned)
    cost = rf"{len(pruned)} layers of Gated, with a mean relative error of {mean:.2f}.*sf\.prune\(model, "
    with pytest.warns(sf.QualityWarning, match=cost), torch.no_grad():
        compiled(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", sf.QualityWarning)
        compiled(x[0])
        assert compiled.report.model["programs"] == 2
        sf.compile(expected, prune="magnitude", policy="sparse")(x)  # which is 2:4 already


class Transform(nn.Module):
    """A layer, and matrices that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)
        self.register_buffer("dct", torch.randn(32, 32))
        self.register_buffer("other", torch.randn(32, 32))
        self.plain = torch.randn(32, 32)
        self.listed = [torch.randn(32, 32), torch.randn(32, 32)]
        self.keyed = {"a": sf.prune_24(torch.randn(32, 32))}

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x @ self.plain.T) + F.linear(x, self.dct) + F.linear(x, self.other)
        return y + x @ self.listed[1] + x @ GLOBAL + F.linear(x, self.keyed["a"]) + F.linear(x, self.plain)


GLOBAL = torch.randn(32, 32)


@pytest.mark.parametrize("prune", [None, "magnitude"])
@pytest.mark.parametrize("sparse_first", [False, True])
def test_a_buffer_or_a_plain_tensor_is_no_weight(prune: str | None, sparse_first: bool, tmp_path) -> None:
    torch.manual_seed(0)
    model, x = Transform().eval(), torch.randn(5, 32)
    if sparse_first:
        sf.prune(model)
        with torch.no_grad():
            model.dct.copy_(sf.prune_24(model.dct))
    expected = copy.deepcopy(model)
    if prune is not None:
        sf.prune(expected)
    compiled = sf.compile(model, prune=prune, policy="sparse")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected(x), rtol=1e-4, atol=1e-4)
        compiled.save(tmp_path / "artifact")
        torch.testing.assert_close(sf.load(tmp_path / "artifact")(x), expected(x), rtol=1e-4, atol=1e-4)
    sparse = [layer.name for layer in compiled.report.layers if layer.decision == "sparse"]
    assert sparse == (["fc"] if sparse_first or prune else [])
    reasons = {layer.name: layer.reason for layer in compiled.report.layers}
    assert reasons["dct"] == "its matrix 'dct' is a buffer, not a weight"
    assert reasons["plain"].endswith("is a constant, not a weight")


def test_a_buffer_that_changes_is_read_as_it_is_now() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.randn(16, 16))
            self.register_buffer("b", torch.randn(16, 16))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return F.linear(x, self.a), F.linear(x, self.b)

    model, x = Model().eval(), torch.randn(3, 16)
    compiled = sf.compile(model)
    compiled(x)
    model.a.mul_(2)
    torch.testing.assert_close(compiled(x), model(x))


def test_skip_adds_to_what_is_skipped_anyway() -> None:
    model, calls = zoo.model_and_calls("llama")
    kwargs = calls[0][1]
    names = ["model.layers.0.mlp.up_proj", "lm_head"]

    def decisions(**options: object) -> list[str]:
        compiled = sf.compile(model, kwargs=kwargs, prune="magnitude", policy="sparse", **options)
        found = {layer.name: layer.decision for layer in compiled.report.layers}
        return [found[name] for name in names]

    assert decisions() == ["sparse", "dense"]
    assert decisions(skip=("*.layers.0.*",)) == ["dense", "dense"]
    assert decisions(skip=(), skip_defaults=False) == ["sparse", "sparse"]
    pruned = sf.prune(copy.deepcopy(model), skip=("*.layers.0.*",))
    assert {layer.name for layer in pruned.layers if layer.method is None} >= set(names)
    sparse = sf.nn.sparsify(copy.deepcopy(model), prune="magnitude", skip=("*.layers.0.*",))
    assert not {*names} & {*sparse.replaced}


@pytest.mark.parametrize("call", [sf.compile, sf.prune, sf.nn.sparsify, sf.tune], ids=lambda f: f.__name__)
def test_a_pattern_that_matches_nothing_is_an_error(call: Callable[..., object]) -> None:
    with pytest.raises(ArgumentError, match=r"'dwon' matches no layer.*down"):
        call(Gated().eval(), skip=("dwon",))


def test_weights_that_pruning_leaves_need_no_data():
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 64)).eval()
        ids = torch.zeros(2, 3, dtype=torch.long)
    compiled = sf.compile(model, (ids,), prune="magnitude", policy="sparse", progress=False)
    assert "on the meta device, and pruning leaves it unchanged" in compiled.mlir("runtime")
    assert [layer.decision for layer in compiled.report.layers] == ["sparse"]
