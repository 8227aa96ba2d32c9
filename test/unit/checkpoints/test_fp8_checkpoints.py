"""Checkpoints in fp8 as others write them: read, dequantised, pruned and quantised again."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from unit.checkpoints.fp8_folders import E4M3, blocked, declare, save_as_llm_compressor, save_as_torchao
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.cli.saved_models import load_model
from sparseflow.errors import CheckpointError, WeightError
from sparseflow.runtime.packed import pack

QKV = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_what_llm_compressor_wrote_is_read(tmp_path, strategy, static):
    model = llama(torch.bfloat16)
    others = {name: t.clone() for name, t in model.state_dict().items()}
    meant = save_as_llm_compressor(model, tmp_path / "theirs", strategy, static)
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    assert stored[QKV].dtype == E4M3
    assert any(name.endswith("input_scale") for name in stored) is static
    checkpoint = Checkpoint(tmp_path / "theirs")
    assert checkpoint.format == "float-quantized"
    found = checkpoint.state_dict()
    assert found.keys() == others.keys()
    assert len(meant) == LAYERS
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, meant.get(name, others[name]).bfloat16()), name
    assert not any(layer.packed for layer in checkpoint.layers())
    llama(torch.bfloat16).load_state_dict(found)


def test_a_sparse_and_quantised_one_is_read_and_found_to_be_24(tmp_path):
    model = llama(torch.bfloat16)
    sf.prune(model)
    meant = save_as_llm_compressor(model, tmp_path / "theirs", "channel", sparse=True)
    checkpoint = Checkpoint(tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    assert stored[QKV.replace("weight", "compressed")].dtype == E4M3
    for name, weight in meant.items():
        assert torch.equal(checkpoint.dense(name), weight.bfloat16()), name
    assert sum(layer.is_24 for layer in checkpoint.layers()) == LAYERS
    packed = convert_checkpoint(tmp_path / "theirs", tmp_path / "packed", "sparseflow")
    assert len(packed) == LAYERS


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
def test_blocks_are_read_as_transformers_reads_them(tmp_path, suffix):
    parts = blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16), suffix)
    checkpoint = Checkpoint(tmp_path / "theirs")
    assert checkpoint.format == "fp8"
    for name, (values, scale, _) in parts.items():
        theirs = Fp8Dequantize(None)._dequantize_one(values, scale, torch.bfloat16)
        assert torch.equal(checkpoint.dense(name), theirs), name
    assert checkpoint.state_dict().keys() == llama().state_dict().keys()


def test_the_command_line_loads_it_dequantised(tmp_path):
    parts = blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    found = load_model(tmp_path / "theirs").state_dict()
    for name, (values, _, factor) in parts.items():
        assert torch.equal(found[name], (values.float() * factor).bfloat16()), name


def test_the_last_blocks_of_a_matrix_may_be_cut(tmp_path):
    parts = blocked(tmp_path / "theirs", llama(torch.bfloat16), (48, 40))
    checkpoint = Checkpoint(tmp_path / "theirs")
    for name, (values, _, factor) in parts.items():
        assert torch.equal(checkpoint.dense(name), (values.float() * factor).bfloat16()), name


def test_experts_and_exponents_as_scales(tmp_path):
    values = torch.randn(3, 64, 32).to(E4M3)
    exponents = torch.randint(120, 134, (3, 2, 2), dtype=torch.uint8)
    save_file({"e": values, "e_scale_inv": exponents}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    declare(tmp_path, quant_method="fp8", weight_block_size=[32, 16])
    factor = (exponents.float() - 127).exp2().repeat_interleave(32, 1).repeat_interleave(16, 2)
    assert torch.equal(Checkpoint(tmp_path).dense("e"), (values.float() * factor).bfloat16())
    save_file(
        {"e": values, "e_scale_inv": exponents.view(torch.float8_e8m0fnu)}, tmp_path / "model.safetensors"
    )
    assert torch.equal(Checkpoint(tmp_path).dense("e"), (values.float() * factor).bfloat16())


def test_what_torchao_wrote_is_read(tmp_path):
    model = llama(torch.bfloat16)
    meant = save_as_torchao(model, tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.format == "torchao"
    found = checkpoint.state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, weight in meant.items():
        assert torch.equal(found[name], weight)


def test_pruned_and_quantised_again_it_loses_no_more_than_one_rounding(tmp_path):
    blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    convert_checkpoint(tmp_path / "theirs", tmp_path / "dense", "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    model = llama(torch.bfloat16)
    model.load_state_dict(load_file(tmp_path / "dense" / "model.safetensors"))
    tokens = [torch.randint(0, 96, (2, 16)) for _ in range(2)]
    sf.prune(model, "sparsegpt", calibration=tokens, progress=False)
    weight = model.model.layers[0].self_attn.q_proj.weight.detach()
    packed = pack(weight, "2:4-fp8")
    lost = packed.format.error(weight, packed.tensors)
    assert lost is not None
    assert 0 < lost < 0.027


@pytest.mark.parametrize("strategy", ["tensor", "channel"])
def test_one_scale_a_matrix_or_row_comes_back_to_the_same_numbers(tmp_path, strategy):
    model = llama(torch.bfloat16)
    sf.prune(model)
    meant = save_as_llm_compressor(model, tmp_path / "theirs", strategy)
    checkpoint = Checkpoint(tmp_path / "theirs")
    for name, weight in meant.items():
        again = pack(checkpoint.dense(name), "2:4-fp8").unpack().float()
        # bfloat16 rounds the largest number of a row, which makes its scale, and what is unpacked.
        assert ((again - weight).abs() <= 2.01 * 2**-8 * weight.abs()).all()


def test_other_and_damaged_ones_are_refused(tmp_path):
    folder = tmp_path / "theirs"
    blocked(folder, llama(torch.bfloat16), (32, 16))
    group = {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}}
    for declared, rule in (
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": group}},
            "quantised as 4-bit int, group",
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {}}}, "name no form of weights"),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, r"blocks have the size \[0, 1\]"),
        ({"quant_method": "torchao"}, "say nothing of torchao's fp8 weights"),
        ({"quant_method": "gptq"}, "quantised by 'gptq'"),
    ):
        declare(folder, **declared)
        with pytest.raises(CheckpointError, match=rule):
            Checkpoint(folder)
    declare(folder, quant_method="fp8", weight_block_size=[16, 16])
    with pytest.raises(
        CheckpointError, match=r"scales \[2, 4\] don't fit values \[64, 64\] in blocks of \[16, 16\]"
    ):
        Checkpoint(folder).dense(QKV)
    declare(folder, quant_method="fp8", weight_block_size=[32, 16])
    state = load_file(folder / "model.safetensors")
    state[QKV + "_scale_inv"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="a scale is NaN or Inf"):
        Checkpoint(folder).dense(QKV)
    del state[QKV + "_scale_inv"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"it has no tensor {QKV}_scale for {QKV}"):
        Checkpoint(folder)


def test_a_mask_that_keeps_three_of_four_is_refused(tmp_path):
    model = llama(torch.bfloat16)
    sf.prune(model)
    save_as_llm_compressor(model, tmp_path / "theirs", "channel", sparse=True)
    path = tmp_path / "theirs" / "model.safetensors"
    state = load_file(path)
    state[QKV.replace("weight", "bitmask")][0, 0] = 0b0111_0011
    save_file(state, path)
    with pytest.raises(WeightError, match="doesn't keep 2 of 4"):
        Checkpoint(tmp_path / "theirs").dense(QKV)
