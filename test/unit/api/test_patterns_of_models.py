"""Models that were pruned to 4:6 or 6:8 compile to those formats by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.runtime import PackedWeight

EACH = pytest.mark.parametrize("pattern", ["4:6", "6:8"])


class Model(nn.Module):
    """Merged layers, a gate, and layers of one shape."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(64, 32), nn.Linear(64, 48)
        self.gate, self.up = nn.Linear(64, 96, bias=False), nn.Linear(64, 96, bias=False)
        self.down = nn.Linear(96, 64)
        self.first, self.second = nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, x):
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return torch.relu(self.q(x)), self.second(self.first(self.k(x)))


def pruned(pattern, **options):
    torch.manual_seed(0)
    model = Model().eval()
    sf.prune(model, pattern=pattern, progress=False, **options)
    return model


def x_of(rows):
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows))


def compiled_of(model, **options):
    return sf.compile(
        model, (x_of(5),), **{"policy": "sparse", "inner": "eager", "progress": False, **options}
    )


def require_same(compiled, model):
    with torch.no_grad():
        for rows in (1, 5, 40):
            for found, expected in zip(compiled(x_of(rows)), model(x_of(rows)), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@EACH
def test_it_is_found_packed_saved_and_loaded(pattern, tmp_path):
    model = pruned(pattern)
    compiled = compiled_of(model)
    require_same(compiled, model)
    layers = compiled.report.to_dict()["layers"]
    assert {(layer["decision"], layer["format"], layer["rel_err"]) for layer in layers} == {
        ("sparse", pattern, 0.0)
    }
    assert all(layer["reason"].startswith(f"already {pattern}; not measured") for layer in layers)
    by_name = {layer["name"]: layer for layer in layers}
    kept, code = {"4:6": (16 * 4, 16 // 2), "6:8": (12 * 6, 8)}[pattern]
    assert by_name["down"]["bytes"] == 64 * (4 * kept + code)
    assert compiled.mlir("sparse_gemm").count("_gated") == 1, "gate and up are one product"
    compiled.save(tmp_path / "saved")
    loaded = sf.load(tmp_path / "saved")
    with torch.no_grad():
        assert all(map(torch.equal, loaded(x_of(7)), compiled(x_of(7))))
    held = [m.format.name for m in loaded.graph().modules() if isinstance(m, PackedWeight)]
    assert set(held) == {pattern}


def test_every_layer_has_the_format_of_its_own_pattern():
    model = pruned("6:8", skip=("first", "k", "down"))
    sf.prune(model, skip=("q", "gate", "up", "second", "down"), progress=False)
    compiled = compiled_of(model, policy="auto", memory="compressed")
    require_same(compiled, model)
    layers = {layer.name: layer for layer in compiled_of(model).report.layers}
    assert {name: layer.format for name, layer in layers.items()} == {
        "q": "6:8", "k": "2:4", "gate": "6:8", "up": "6:8", "down": "", "first": "2:4", "second": "6:8"
    }  # fmt: skip
    assert layers["down"].reason.startswith("its weight is not 2:4 (row 0, group 0)")


def test_a_format_that_stores_another_pattern_is_refused_for_its_reason():
    model = pruned("6:8").bfloat16()
    compiled = sf.compile(model, (x_of(5).bfloat16(),), format="2:4-fp8", policy="sparse", inner="eager")
    for layer in compiled.report.layers:
        assert layer.format == "6:8"
        assert "not in 2:4-fp8: its weight is 6:8, not 2:4" in layer.reason


@EACH
def test_compiling_prunes_to_it(pattern):
    torch.manual_seed(0)
    model, twin = Model().eval(), pruned(pattern)
    with pytest.warns(sf.QualityWarning):
        compiled = compiled_of(model, format=pattern, prune="magnitude")
    require_same(compiled, twin)


@EACH
def test_in_place_and_torch_compile(pattern):
    model = pruned(pattern)
    twin = copy.deepcopy(model)
    require_same(compiled_of(model, inplace=True), twin)
    assert model.down.weight.isnan().all()
    require_same(torch.compile(twin, backend="sparseflow"), pruned(pattern))


@EACH
def test_eager_layers_take_it_with_and_without_pruning(pattern):
    model = pruned(pattern)
    twin = copy.deepcopy(model)
    report = sf.nn.sparsify(model, prune=None, policy="sparse")
    assert {layer.format for layer in report.layers} == {pattern}
    require_same(model, twin)
    state = model.state_dict()
    torch.manual_seed(0)
    other = Model().eval()
    sf.nn.sparsify(other, format=pattern, policy="sparse")
    require_same(other, twin)
    other.load_state_dict(state)
    sf.nn.densify(other)
    assert torch.equal(other.down.weight, twin.down.weight)


def test_a_head_is_stored_in_it():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.lm_head = nn.Linear(64, 64), nn.Linear(64, 96, bias=False)

        def forward(self, x):
            return self.lm_head(self.body(x))

    torch.manual_seed(0)
    model = Language().eval()
    compiled = compiled_of(model, lm_head="6:8")
    expected = F.linear(model.body(x_of(3)), sf.Pattern.of("6:8").prune(model.lm_head.weight))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x_of(3)), expected, rtol=1e-4, atol=1e-5)
