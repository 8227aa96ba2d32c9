"""Layers of vLLM from checkpoints in fp8: 2:4 ones keep bits and scales, others are read in 16 bits."""

from __future__ import annotations

import pytest
import torch
from vllm_rank import one_rank

import sparseflow as sf
from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.compressed_tensors import to_bitmask

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


BLOCKS = {**FP8, "weight_block_size": [48, 32]}
"""The last block of 64 rows is cut."""

MASKED = {**CHANNEL, "sparsity_config": {"format": "sparse-24-bitmask", "targets": ["Linear"], "ignore": []}}
TORCHAO = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}}


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
        tensors = weight if isinstance(weight, dict) else {"weight": weight}
        for suffix, tensor in tensors.items():
            param = getattr(layer, suffix)
            param.weight_loader(param, tensor, index)
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


def in_blocks(*, sparse: bool):
    """E4m3 weights of both parts, grids of scales, and the float32 weights that they stand for."""
    weights, scales, exact = [], [], []
    for rows in ROWS.values():
        w = torch.randn(rows, K)
        w = sf.prune_24(w) if sparse else w
        scale = torch.rand(-(-rows // 48), K // 32) / 64 + 1e-3
        factor = scale.repeat_interleave(48, 0)[:rows].repeat_interleave(32, 1)
        weights.append((w / factor).clamp(-448, 448).to(torch.float8_e4m3fn))
        scales.append(scale)
        exact.append(weights[-1].float() * factor)
    return weights, scales, torch.cat(exact)


@pytest.mark.parametrize("prune", [None, "magnitude"])
def test_scales_by_block_become_scales_by_row(engine, prune) -> None:
    """What is 2:4, or pruned to it, is quantised again: by at most half a step of e4m3, 2⁻⁴."""
    weights, scales, exact = in_blocks(sparse=prune is None)
    layer, config = gate_up(engine, BLOCKS, weights, scales, prune=prune)
    assert any("2:4-fp8" in line for line in config.layers.lines())
    wanted = exact if prune is None else sf.prune_24(exact.bfloat16()).float()
    found = layer.quant_method.dequantize_weight(layer).float()
    assert ((found - wanted).abs() <= 2**-3.9 * wanted.abs() + wanted.abs().amax(1, keepdim=True) / 448).all()
    assert torch.equal(found == 0, wanted == 0) or (found == 0).sum() > (wanted == 0).sum()


def test_blocks_that_are_not_24_are_read_in_16_bits(engine) -> None:
    weights, scales, exact = in_blocks(sparse=False)
    layer, config = gate_up(engine, BLOCKS, weights, scales)
    assert "its weight is not 2:4" in config.layers.dense[NAME]
    x = torch.eye(K, dtype=torch.bfloat16)
    assert torch.equal(layer.quant_method.apply(layer, x), exact.bfloat16().T)


def test_kept_values_with_bitmasks_keep_their_bits(engine) -> None:
    weights, scales = quantised(sparse=True, channel=True)
    stored = []
    for w in weights:
        kept, mask = to_bitmask(sf.compress_2_4(w.bfloat16()))
        shape = torch.tensor(w.shape)
        stored.append({"compressed": kept.to(torch.float8_e4m3fn), "bitmask": mask, "shape": shape})
    layer, _ = gate_up(engine, MASKED, stored, scales)
    assert torch.equal(layer.quant_method.dequantize_weight(layer), dense(weights, scales).bfloat16())
    stored[0]["compressed"] = stored[0]["compressed"].bfloat16()
    with pytest.raises(CheckpointError, match=r"gate_proj.compressed: it is torch.bfloat16"):
        gate_up(engine, MASKED, stored, scales)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_cut_blocks_of_columns(engine, monkeypatch, rank) -> None:
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    for module in (linear, parameter):
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank)
    (weight, _), (scale, _), exact = in_blocks(sparse=False)
    for block, text in (
        ([48, 32], None),
        ([48, 128], "blocks of 128 columns, and a rank's part of it has 64"),
    ):
        config = SparseFlowEngineConfig.from_config({**FP8, "weight_block_size": block})
        made = {"bias": False, "quant_config": config, "prefix": "model.o", "params_dtype": torch.bfloat16}
        if text is not None:
            with pytest.raises(ArgumentError, match=text):
                linear.RowParallelLinear(K, 64, **made)
            continue
        layer = linear.RowParallelLinear(K, 64, **made)
        layer.weight.weight_loader(layer.weight, weight)
        layer.weight_scale.weight_loader(layer.weight_scale, scale)
        layer.quant_method.process_weights_after_loading(layer)
        x = torch.eye(K // 2, dtype=torch.bfloat16)
        half = exact[:64, rank * K // 2 :][:, : K // 2]
        assert torch.equal(layer.quant_method.apply(layer, x), half.bfloat16().T)


def test_names_of_others_become_ours() -> None:
    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    config = SparseFlowEngineConfig.from_config(TORCHAO)
    assert config.packed.form == "fp8"
    rename = config.get_cache_scale_mapper()
    for theirs, ours in (
        ("a.q_proj._weight_qdata", "a.q_proj.weight"),
        ("a.q_proj._weight_scale", "a.q_proj.weight_scale"),
        ("a.q_proj.weight_scale_inv", "a.q_proj.weight_scale"),
        ("a.q_proj.activation_scale", "a.q_proj.input_scale"),
        ("a.q_proj.weight", "a.q_proj.weight"),
    ):
        assert rename.apply_list([theirs]) == [ours]


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, "Int8"),
        ({**CHANNEL, "sparsity_config": {"format": "2:4-other"}}, "sparse format '2:4-other' isn't read"),
        ({**FP8, "weight_block_size": [0, 128]}, r"blocks have the size \[0, 128\]"),
        (
            {
                **CHANNEL,
                "config_groups": {"a": {"weights": {"type": "int", "num_bits": 4, "strategy": "group"}}},
            },
            "quantised as 4-bit int, group",
        ),
    ],
)
def test_other_forms_of_their_methods_are_refused(declared, rule) -> None:
    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    assert SparseFlowEngineConfig.override_quantization_method(declared, "sparseflow") == "sparseflow"
    assert SparseFlowEngineConfig.override_quantization_method(declared, None) is None
    with pytest.raises(CheckpointError, match=rule):
        SparseFlowEngineConfig.from_config(declared)


def test_experts_in_fp8_are_refused(engine) -> None:
    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    class RoutedExperts(torch.nn.Module):
        pass

    with pytest.raises(CheckpointError, match="its experts are fp8 in the checkpoint"):
        SparseFlowEngineConfig.from_config(FP8).get_quant_method(
            RoutedExperts(), "model.layers.0.mlp.experts"
        )


def test_malformed_ones_are_refused(engine) -> None:
    weights, scales = quantised(sparse=True)
    with pytest.raises(CheckpointError, match=r"not torch\.float8_e4m3fn"):
        gate_up(engine, FP8, [weights[0].bfloat16(), weights[1]], scales)
    with pytest.raises(CheckpointError, match="one scale, or one a row"):
        gate_up(engine, FP8, weights, [torch.ones(7), scales[1]])
    with pytest.raises(CheckpointError, match=r"a grid \[2, 4\] over blocks of \[48, 32\]"):
        gate_up(engine, BLOCKS, weights, [torch.ones(2, 3), scales[1]])
    with pytest.raises(CheckpointError, match="a scale is NaN or Inf"):
        gate_up(engine, FP8, weights, [torch.tensor(float("nan")), scales[1]])
    with pytest.raises(CheckpointError, match="a matrix of 64 rows"):
        gate_up(engine, FP8, [weights[0][:32], weights[1]], scales)
    ignored = {**FP8, "ignored_layers": [NAME.replace("gate_up_proj", "up_proj")]}
    with pytest.raises(CheckpointError, match="some are fp8 in the checkpoint, some not"):
        gate_up(engine, ignored, weights, scales)
