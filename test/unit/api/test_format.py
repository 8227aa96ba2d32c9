"""sf.compile(model, format="2:4-fp8"): what runs in fp8, how near it stays, what is said."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import sparseflow as sf
from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import PackedWeight


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(128, 256)
        self.up = nn.Linear(128, 256)
        self.down = nn.Linear(256, 128, bias=False)
        self.odd = nn.Linear(128, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(x + self.down(F.silu(self.gate(x)) * self.up(x)))


@pytest.fixture
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp().eval().bfloat16()


def inputs(rows: int = 40) -> torch.Tensor:
    return torch.randn(rows, 128, generator=torch.Generator().manual_seed(1)).bfloat16()


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


# Two operands are rounded to e4m3, at 2.6e-2 each; layers add up.
BOUND = 0.06


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_stays_near_the_pruned_model_for_any_batch_from_one_capture(mlp: Mlp, inner: str) -> None:
    quantized = sf.compile(mlp, prune="magnitude", policy="sparse", format="2:4-fp8", inner=inner)
    pruned = sf.compile(mlp, prune="magnitude", policy="sparse")
    for rows in (40, 7, 1, 0):
        x = inputs(rows)
        found, expected = quantized(x), pruned(x)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert not rows or 0 < distance(found, expected) < BOUND
    assert quantized.report.model["programs"] == 1


def test_the_report_says_what_is_in_fp8_what_it_costs_and_what_is_not(mlp: Mlp) -> None:
    compiled = sf.compile(mlp, (inputs(),), prune="magnitude", policy="sparse", format="2:4-fp8")
    layers = {layer.name: layer for layer in compiled.report.layers}
    for name in ("gate", "up", "down"):
        layer = layers[name]
        assert layer.format_err is not None
        assert layer.format_err.output is not None
        assert 0.02 < layer.format_err.weight < 0.03
        assert 0.02 < layer.format_err.output < 0.05
        assert layer.bytes == layer.N * layer.K * 5 // 8 + 4 * layer.N
        assert f"of its output {layer.format_err.output:.1%}" in layer.reason
    assert layers["odd"].format_err is None
    assert "not in 2:4-fp8: N and K must be multiples of 64, got N=24" in layers["odd"].reason
    held = [m for m in compiled.graph().modules() if isinstance(m, PackedWeight) and m.format.lossy]
    assert sum(m.nbytes for m in held) == sum(layers[name].bytes for name in ("gate", "up", "down"))
    assert compiled.report.to_dict()["layers"][0]["format_err"] == {
        "weight": layers["gate"].format_err.weight,
        "output": layers["gate"].format_err.output,
    }


def test_the_output_error_is_that_of_the_layer_alone(mlp: Mlp) -> None:
    model = nn.Sequential(mlp.gate).eval()
    x = inputs()
    compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse", format="2:4-fp8")
    pruned = copy.deepcopy(mlp.gate).float()
    with torch.no_grad():
        pruned.weight.copy_(sf.prune_24(mlp.gate.weight))
        measured = distance(compiled(x), pruned(x.float()))
    (layer,) = compiled.report.layers
    assert layer.format_err is not None
    assert layer.format_err.output == pytest.approx(measured, rel=1e-3)


def test_inplace_releases_the_dense_weights_and_says_what_it_could_not_measure(mlp: Mlp) -> None:
    expected = sf.compile(copy.deepcopy(mlp), prune="magnitude", policy="sparse", format="2:4-fp8")(inputs())
    compiled = sf.compile(mlp, prune="magnitude", policy="sparse", format="2:4-fp8", inplace=True)
    assert torch.equal(compiled(inputs()), expected)
    assert mlp.up.weight.isnan().all()
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["up"].format_err is not None
    assert layers["up"].format_err.output is None
    assert "of its output not measured" in layers["up"].reason


def test_float32_layers_stay_as_they_are_and_say_why() -> None:
    torch.manual_seed(0)
    model, x = Mlp().eval(), inputs().float()
    compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse", format="2:4-fp8")
    torch.testing.assert_close(compiled(x), sf.compile(model, prune="magnitude", policy="sparse")(x))
    for layer in compiled.report.layers:
        assert layer.format_err is None
        assert "not in 2:4-fp8: it is f32" in layer.reason


def test_auto_on_a_cpu_runs_fp8_where_it_was_asked_for_and_says_it_is_not_fast(mlp: Mlp) -> None:
    compiled = sf.compile(mlp, (inputs(),), prune="magnitude", format="2:4-fp8", skip=("odd",))
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert "a CPU runs it in one way" in layers["down"].reason
    assert 'format = "2:4-fp8"' in compiled.mlir()


def test_an_unknown_format_and_a_nan_weight_are_refused(mlp: Mlp) -> None:
    with pytest.raises(ArgumentError, match="format must be one of '2:4', '4:6', '6:8', '2:4-fp8'"):
        sf.compile(mlp, prune="magnitude", format="2:4-int4")
    with torch.no_grad():
        mlp.down.weight[3, 5] = float("nan")
    with pytest.raises(WeightError, match="down"):
        sf.compile(mlp, prune="magnitude", policy="sparse", format="2:4-fp8")(inputs())


def test_a_small_llama_keeps_its_logits_near_those_of_the_pruned_model() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
    )
    model = LlamaForCausalLM(config).eval().bfloat16()
    quantized, pruned = (
        sf.compile(model, prune="magnitude", policy="sparse", format=f) for f in ("2:4-fp8", "2:4")
    )
    for ids in (torch.randint(0, 96, (2, 17)), torch.randint(0, 96, (3, 9))):
        with torch.no_grad():
            found, expected = quantized(ids).logits, pruned(ids).logits
        assert 0 < distance(found, expected) < BOUND
    in_fp8 = [layer.name for layer in quantized.report.layers if layer.format_err is not None]
    assert any("down_proj" in name for name in in_fp8)
    assert any("q_proj" in name for name in in_fp8)
