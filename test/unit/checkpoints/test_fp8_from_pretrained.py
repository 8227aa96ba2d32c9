"""Folders in fp8 of others, loaded by `SparseFlowConfig`: dequantised, pruned if asked, packed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.quantizers.base import HfQuantizer
from unit.checkpoints.fp8_folders import E4M3, blocked, declare, save_as_llm_compressor, save_as_torchao
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint
from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.nn import SparseLinear

QKV = "model.layers.0.self_attn.q_proj"

needs_raw_tensors = pytest.mark.skipif(
    not hasattr(HfQuantizer, "get_new_dtype"), reason="this transformers casts fp8 before it is scaled"
)


def load(folder, **options):
    config = SparseFlowConfig(policy="sparse", **options)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)


def packed(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, SparseLinear)}


WRITERS = {
    "tensor": lambda model, folder: save_as_llm_compressor(model, folder, "tensor", static=True),
    "channel": lambda model, folder: save_as_llm_compressor(model, folder, "channel"),
    "block": lambda model, folder: save_as_llm_compressor(model, folder, "block"),
    "masked": lambda model, folder: save_as_llm_compressor(model, folder, "channel", sparse=True),
    "transformers": lambda model, folder: blocked(folder, model, (48, 40)),
    "torchao": save_as_torchao,
}
"""Saves a model in fp8. The blocks of "transformers" are cut at the edges."""


@needs_raw_tensors
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_24_is_packed_as_the_checkpoint_reads(tmp_path, writer) -> None:
    model = llama(torch.bfloat16)
    sf.prune(model)
    WRITERS[writer](model, tmp_path / "theirs")
    expected = Checkpoint(tmp_path / "theirs")
    found = load(tmp_path / "theirs", prune=None)
    layers = packed(found)
    assert len(layers) == LAYERS
    for name in expected.names:
        layer = layers.get(name.removesuffix(".weight"))
        weight = found.state_dict()[name] if layer is None else layer.weight.unpack()
        assert torch.equal(weight, expected.dense(name)), name


@needs_raw_tensors
@pytest.mark.filterwarnings("ignore::sparseflow.errors.FormatWarning")
@pytest.mark.parametrize("format", ["2:4", "2:4-fp8"])
def test_what_is_not_is_pruned_while_it_loads(tmp_path, format) -> None:
    blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    dense = llama(torch.bfloat16)
    dense.load_state_dict(Checkpoint(tmp_path / "theirs").state_dict())
    sf.prune(dense)
    layers = packed(load(tmp_path / "theirs", format=format))
    assert len(layers) == (LAYERS if format == "2:4" else LAYERS - 4)  # fp8 needs 64 rows: not k and v
    for name, layer in layers.items():
        wanted = dense.get_submodule(name).weight.float()
        found = layer.weight.unpack().float()
        bound = wanted.abs() / 16 + wanted.abs().amax(1, keepdim=True) / 448 if format == "2:4-fp8" else 0
        assert ((found - wanted).abs() <= bound).all(), name
        assert layer.weight.format.name == format


@needs_raw_tensors
def test_without_pruning_it_stays_dense_and_saves_without_scales(tmp_path) -> None:
    blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    found = load(tmp_path / "theirs", prune=None)
    assert not packed(found)
    found = load(tmp_path / "theirs")
    found.save_pretrained(tmp_path / "packed")
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    assert not any("scale" in name for name in stored)
    declared = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert declared["quant_method"] == "sparseflow"
    assert len(declared["layers"]) == LAYERS
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.bfloat16)
    tokens = torch.arange(12)[None]
    assert torch.equal(again(tokens).logits, found(tokens).logits)


@needs_raw_tensors
def test_damaged_folders_are_refused(tmp_path) -> None:
    folder = tmp_path / "theirs"
    blocked(folder, llama(torch.bfloat16), (32, 16))
    path = folder / "model.safetensors"
    whole = load_file(path)
    scale, weight = f"{QKV}.weight_scale_inv", f"{QKV}.weight"

    def broken(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
        merged = {**whole, **changes}
        return {name: tensor for name, tensor in merged.items() if tensor is not None}

    for changes, rule in (
        ({scale: None}, f"it has no scale of {QKV}, whose weight is in fp8"),
        ({weight: None}, f"it has scales, but no weight, of {QKV}"),
        ({scale: torch.ones(3, 4)}, r"scales \[3, 4\] don't fit values \[64, 64\] in blocks of \[32, 16\]"),
        ({scale: torch.full((2, 4), float("inf"))}, "a scale is NaN or Inf"),
        (
            {weight: torch.zeros(32, 64).to(E4M3), scale: torch.ones(1, 4)},
            r"its weight is \[32, 64\] in the checkpoint; the model needs \[64, 64\]",
        ),
    ):
        save_file(broken(**changes), path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=rule):
            load(folder)


def test_other_forms_of_their_methods_are_refused(tmp_path) -> None:
    folder = tmp_path / "theirs"
    blocked(folder, llama(torch.bfloat16), (32, 16))
    group = {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}}
    declare(folder, quant_method="compressed-tensors", config_groups={"a": group})
    with pytest.raises(CheckpointError, match="quantised as 4-bit int, group"):
        load(folder)
    declare(folder, quant_method="torchao", quant_type={"default": {"_type": "Int8WeightOnlyConfig"}})
    with pytest.raises(CheckpointError, match="torchao's 'Int8WeightOnlyConfig'"):
        load(folder)


def test_a_transformers_that_casts_first_is_refused(tmp_path, monkeypatch) -> None:
    blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    monkeypatch.delattr(HfQuantizer, "get_new_dtype", raising=False)
    with pytest.raises(ArgumentError, match="casts weights in fp8 before they are scaled"):
        load(tmp_path / "theirs")


def test_without_our_configuration_theirs_loads_it(tmp_path) -> None:
    parts = blocked(tmp_path / "theirs", llama(torch.bfloat16), (32, 16))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16)
    values, _, factor = parts[f"{QKV}.weight"]
    assert torch.equal(found.get_submodule(QKV).weight, (values.float() * factor).bfloat16())
