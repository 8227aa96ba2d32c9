"""Layers of vLLM from checkpoints in fp8: 2:4 ones keep bits and scales, others are read in 16 bits."""

from __future__ import annotations

import pytest
import torch
from vllm_rank import one_rank

import sparseflow as sf
from sparseflow.errors import CheckpointError

K, ROWS = 128, {"gate_proj": 64, "up_proj": 64}
NAME = "model.layers.0.mlp.gate_up_proj"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]}
CHANNEL = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"type": "float", "num_bits": 8, "strategy": "channel"},
        }
    },
    "ignore": ["lm_head"],
}


@pytest.fixture
def engine():
    with one_rank(policy="sparse") as config:
        yield config


def gate_up(engine, declared: dict, weights, scales, **options):
    from vllm.model_executor.layers.linear import MergedColumnParallelLinear

    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    engine.additional_config["sparseflow"] = {"policy": "sparse", **options}
    config = SparseFlowEngineConfig.from_config(declared)
    config.packed_modules_mapping = {"gate_up_proj": list(ROWS)}
    layer = MergedColumnParallelLinear(
        K,
        list(ROWS.values()),
        bias=False,
        quant_config=config,
        prefix=NAME,
        params_dtype=torch.bfloat16,
    )
    for index, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
        layer.weight.weight_loader(layer.weight, weight, index)
        layer.weight_scale.weight_loader(layer.weight_scale, scale, index)
        layer.input_scale.weight_loader(layer.input_scale, torch.tensor(0.5), index)
    for _ in range(2):  # as vLLM does
        layer.quant_method.process_weights_after_loading(layer)
    return layer, config


def quantised(*, sparse: bool, channel: bool = False):
    """E4m3 weights of both parts and their scales."""
    weights, scales = [], []
    for rows in ROWS.values():
        w = torch.randn(rows, K)
        w = sf.prune_24(w) if sparse else w
        scale = (w.abs().amax(1, keepdim=True) if channel else w.abs().amax()) / 448
        weights.append((w / scale).to(torch.float8_e4m3fn))
        scales.append(scale)
    return weights, scales


def dense(weights, scales) -> torch.Tensor:
    return torch.cat([w.float() * scale for w, scale in zip(weights, scales, strict=True)])


@pytest.mark.parametrize(("declared", "channel"), [(FP8, False), (CHANNEL, True)])
def test_weights_that_are_24_keep_their_bits_and_scales(engine, declared, channel) -> None:
    weights, scales = quantised(sparse=True, channel=channel)
    layer, config = gate_up(engine, declared, weights, scales)
    assert {name for name, _ in layer.named_parameters()} == {
        "weight_packed",
        "weight_positions",
        "weight_scales",
    }
    assert any("2:4-fp8" in line for line in config.layers.lines())
    exact = dense(weights, scales)
    assert torch.equal(layer.quant_method.dequantize_weight(layer), exact.bfloat16())
    for m in (0, 1, 40):
        x = torch.randn(m, K, dtype=torch.bfloat16)
        y, wide = layer.quant_method.apply(layer, x).float(), x.float() @ exact.T
        assert y.shape == wide.shape
        assert not m or (y - wide).abs().max() < 0.06 * wide.abs().max()


def test_a_part_is_pruned_in_the_bits_that_it_has(engine) -> None:
    weights, scales = quantised(sparse=False)
    layer, _ = gate_up(engine, FP8, weights, scales, prune="magnitude")
    pruned = [sf.prune_24(w.float()).to(torch.float8_e4m3fn) for w in weights]
    assert torch.equal(layer.quant_method.dequantize_weight(layer), dense(pruned, scales).bfloat16())


def test_what_is_not_24_stays_dense_in_16_bits(engine) -> None:
    weights, scales = quantised(sparse=False)
    layer, config = gate_up(engine, FP8, weights, scales)
    assert "its weight is not 2:4" in config.layers.dense[NAME]
    x = torch.randn(5, K, dtype=torch.bfloat16)
    exact = x @ dense(weights, scales).bfloat16().T
    torch.testing.assert_close(layer.quant_method.apply(layer, x), exact, atol=0.2, rtol=0.02)


def test_malformed_ones_are_refused(engine) -> None:
    weights, scales = quantised(sparse=True)
    with pytest.raises(CheckpointError, match=r"not torch\.float8_e4m3fn"):
        gate_up(engine, FP8, [weights[0].bfloat16(), weights[1]], scales)
    with pytest.raises(CheckpointError, match="by tensor or by channel"):
        gate_up(engine, FP8, weights, [torch.ones(7), scales[1]])
    with pytest.raises(CheckpointError, match="a matrix of 64 rows"):
        gate_up(engine, FP8, [weights[0][:32], weights[1]], scales)
    ignored = {**FP8, "ignored_layers": [NAME.replace("gate_up_proj", "up_proj")]}
    with pytest.raises(CheckpointError, match="some are fp8 in the checkpoint, some not"):
        gate_up(engine, ignored, weights, scales)
