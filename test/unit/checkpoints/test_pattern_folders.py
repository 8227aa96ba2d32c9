"""Packed folders of models whose layers are 4:6 and 6:8, beside layers that are 2:4 and dense."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.errors import CheckpointError
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.nn import SparseLinear

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PATTERNS = ("2:4", "4:6", "6:8")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of all three patterns, by turns, with some layers dense; K isn't a multiple of six."""
    path, model = tmp_path_factory.mktemp("patterns") / "dense", llama()
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    for index, module in enumerate(linear):
        if index % 4 < 3:
            module.weight.data = sf.Pattern.of(PATTERNS[index % 4]).prune(module.weight.data)
    model.save_pretrained(path)
    return path


def formats(model) -> list[str]:
    return [m.weight.format.name for m in model.modules() if isinstance(m, SparseLinear)]


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def declared(folder) -> dict:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_it_is_saved_packed_and_loads_again(folder, tmp_path) -> None:
    packed = load(folder, quantization_config=SparseFlowConfig(prune=None, policy="sparse"))
    assert set(formats(packed)) == set(PATTERNS)
    packed.save_pretrained(tmp_path / "packed")
    again = load(tmp_path / "packed")
    assert formats(again) == formats(packed)
    assert torch.equal(again(IDS).logits, packed(IDS).logits)
    torch.testing.assert_close(again(IDS).logits, load(folder)(IDS).logits, atol=1e-5, rtol=1e-5)
    saved = declared(tmp_path / "packed")
    assert len(saved["layers"]) == len(formats(packed)) < LAYERS
    assert set(saved["patterns"]) < set(saved["layers"])
    assert ["4:6", 64] in saved["patterns"].values()
    again.save_pretrained(tmp_path / "again")
    assert declared(tmp_path / "again") == saved


@pytest.mark.parametrize("pattern", ["4:6", "6:8"])
def test_what_is_pruned_while_it_is_loaded_is_saved_too(tmp_path, pattern) -> None:
    llama().save_pretrained(tmp_path / "dense")
    config = SparseFlowConfig(prune="magnitude", format=pattern, policy="sparse")
    load(tmp_path / "dense", quantization_config=config).save_pretrained(tmp_path / "packed")
    again = load(tmp_path / "packed")
    assert set(formats(again)) == {pattern}
    layer = "model.layers.0.mlp.down_proj"
    expected = sf.Pattern.of(pattern).prune(load(tmp_path / "dense").get_submodule(layer).weight)
    assert torch.equal(again.get_submodule(layer).weight.unpack(), expected)


def test_converting_there_and_back_keeps_every_weight(folder, tmp_path) -> None:
    layers = convert_checkpoint(folder, tmp_path / "packed", "sparseflow")
    assert 0 < len(layers) < LAYERS
    size = sum(f.stat().st_size for f in (tmp_path / "packed").glob("*.safetensors"))
    assert size < sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    convert_checkpoint(tmp_path / "packed", tmp_path / "dense", "dense")
    before, packed, after = (Checkpoint(p) for p in (folder, tmp_path / "packed", tmp_path / "dense"))
    assert all(torch.equal(before.dense(name), after.dense(name)) for name in before.names)
    by_name = {layer.name: layer for layer in packed.layers()}
    twos = {layer.name for layer in before.layers() if layer.is_24}
    assert {name for name, layer in by_name.items() if layer.is_24} == twos
    convert_checkpoint(tmp_path / "packed", tmp_path / "bitmask", "sparse-24-bitmask")
    assert {layer.name for layer in Checkpoint(tmp_path / "bitmask").layers() if layer.packed} < set(layers)


@pytest.mark.parametrize(
    "patterns",
    [["6:8"], {"model.layers.0.mlp.up_proj": "6:8"}, {"a": ["6:8"]}, {"a": ["3:5", 64]}, {"a": ["6:8", 0]}],
)
def test_a_malformed_list_of_patterns_is_refused(folder, tmp_path, patterns) -> None:
    convert_checkpoint(folder, tmp_path / "packed", "sparseflow")
    file = tmp_path / "packed" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["patterns"] = patterns
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="patterns must give each layer"):
        load(tmp_path / "packed")
    with pytest.raises(CheckpointError, match="patterns must give each layer"):
        Checkpoint(tmp_path / "packed").state_dict()


def test_a_weight_of_another_width_is_refused(folder, tmp_path) -> None:
    convert_checkpoint(folder, tmp_path / "packed", "sparseflow")
    file = tmp_path / "packed" / "config.json"
    config = json.loads(file.read_text())
    name, (pattern, width) = next(iter(config["quantization_config"]["patterns"].items()))
    config["quantization_config"]["patterns"][name] = [pattern, width + 8]
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{width + 8} in features in the checkpoint"):
        load(tmp_path / "packed")
