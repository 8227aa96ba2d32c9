"""Checkpoints against compressed-tensors itself, and their conversions."""

import json

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.config import Sparse24BitMaskConfig
from safetensors.torch import load_file, save_file
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.errors import ArgumentError, CheckpointError, WeightError

BITMASK = "sparse-24-bitmask"


def save_as_theirs(model, folder, ignore=("lm_head",), **options):
    """As llm-compressor saves: compressed state, then the configuration."""
    compressor = ModelCompressor(Sparse24BitMaskConfig(targets=["Linear"], ignore=list(ignore)))
    state = compressor.compress(model, model.state_dict())
    model.save_pretrained(folder, state_dict=state, save_original_format=False, **options)
    compressor.update_config(folder)


def tensors(folder):
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", [{}, {"max_shard_size": "40KB"}])
def test_what_compressed_tensors_wrote_is_read_and_comes_back_to_the_bit(tmp_path, dtype, shard):
    model = llama(dtype)
    sf.prune(model, skip=("lm_head", "*.q_proj"))
    ignored = ("lm_head", "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
    save_as_theirs(model, tmp_path / "theirs", ignored, **shard)
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() is bool(shard)
    checkpoint = Checkpoint(tmp_path / "theirs")
    assert checkpoint.format == BITMASK
    assert_same(checkpoint.state_dict(), model.state_dict())
    layers = {layer.name: layer for layer in checkpoint.layers()}
    assert sum(layer.packed for layer in layers.values()) == LAYERS - 2
    q_proj = layers["model.layers.0.self_attn.q_proj"]
    assert (q_proj.N, q_proj.K, q_proj.packed, q_proj.is_24) == (64, 64, False, False)
    convert_checkpoint(tmp_path / "theirs", tmp_path / "packed", "sparseflow", shard_bytes=40_000)
    convert_checkpoint(tmp_path / "packed", tmp_path / "back", BITMASK)
    assert_same(tensors(tmp_path / "back"), tensors(tmp_path / "theirs"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compressed_tensors_reads_what_is_written(tmp_path, dtype):
    model = llama(dtype)
    sf.prune(model)
    model.save_pretrained(tmp_path / "plain")
    packed = convert_checkpoint(tmp_path / "plain", tmp_path / "ours", BITMASK, shard_bytes=40_000)
    assert len(packed) == LAYERS
    assert len(list((tmp_path / "ours").glob("model-0000*-of-*.safetensors"))) > 1
    other = llama(dtype)
    compressor = ModelCompressor.from_pretrained(str(tmp_path / "ours"))
    found = dict(compressor.sparsity_compressor.decompress(str(tmp_path / "ours")))
    assert_same(found, dict(model.named_parameters()))
    assert sorted(compressor.sparsity_config.targets) == sorted(packed)
    other.load_state_dict(found)


def test_a_plain_checkpoint_says_which_layers_are_24_and_compiles_without_pruning(pruned, pruned_folder):
    checkpoint = Checkpoint(pruned_folder)
    assert checkpoint.format == "dense"
    ready = {layer.name for layer in checkpoint.layers() if layer.is_24}
    assert len(ready) == LAYERS
    model = llama()
    model.load_state_dict(checkpoint.state_dict())
    ids = torch.arange(6).reshape(2, 3)
    compiled = sf.compile(model, (ids,), policy="sparse")
    sparse = {row.name for row in compiled.report.layers if row.decision == "sparse"}
    assert sparse == ready
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, pruned(ids).logits)


def test_formats_convert_into_each_other_and_other_files_come_along(pruned_folder, tmp_path):
    (pruned_folder / "tokenizer.json").write_text("{}")
    here = pruned_folder
    for format_ in (BITMASK, "sparseflow", "dense"):
        convert_checkpoint(here, tmp_path / format_, format_)
        here = tmp_path / format_
        assert Checkpoint(here).format == format_
        assert (here / "tokenizer.json").read_text() == "{}"
    assert_same(tensors(here), tensors(pruned_folder))
    assert json.loads((here / "config.json").read_text()) == json.loads(
        (pruned_folder / "config.json").read_text()
    )


def test_layers_that_are_not_24_or_skipped_stay_as_they_are(pruned_folder, dense_folder, tmp_path):
    assert convert_checkpoint(dense_folder, tmp_path / "none", BITMASK) == []
    some = convert_checkpoint(pruned_folder, tmp_path / "some", "sparseflow", skip=("*.mlp.*",))
    assert len(some) == 8
    assert not any("mlp" in layer for layer in some)


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_foreign_and_newer_formats_are_refused(pruned_folder, tmp_path):
    for declared, rule in (
        ({"quant_method": "gptq"}, "quantised by 'gptq'"),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "marlin-24"}},
            "'marlin-24' isn't read",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {}},
                "format": "float-quantized",
            },
            "name no form of weights",
        ),
        (
            {"quant_method": "sparseflow", "format_version": 3},
            "version is 3; this SparseFlow reads version 2",
        ),
        ({"quant_method": "sparseflow"}, "format version is None"),
        ([], "isn't an object"),
    ):
        edit(pruned_folder, "config.json", quantization_config=declared or ["?"])
        with pytest.raises(CheckpointError, match=rule):
            Checkpoint(pruned_folder)


def test_missing_and_damaged_parts_are_named(pruned_folder, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint(tmp_path / "absent")
    folder = tmp_path / "ours"
    convert_checkpoint(pruned_folder, folder, BITMASK, shard_bytes=40_000)
    with pytest.raises(CheckpointError, match=r"no tensor model\.up\.weight"):
        Checkpoint(folder).weight("model.up.weight")
    home = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name, file = next((name, file) for name, file in home.items() if name.endswith(".bitmask"))
    shard = folder / file
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"{shard.name} can't be read"):
        Checkpoint(folder)
    shard.write_bytes(content)
    held = load_file(shard)
    save_file({other: t for other, t in held.items() if other != name}, shard)
    with pytest.raises(CheckpointError, match=f"{shard.name} lacks the tensor {name}"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("part", "change", "error"),
    [
        ("compressed", lambda t: t[:, :-1].contiguous(), ArgumentError),
        ("compressed", lambda t: t.fill_(float("nan")), WeightError),
        ("bitmask", lambda t: t.fill_(255), WeightError),
        ("bitmask", lambda t: t.to(torch.int32), ArgumentError),
        ("shape", lambda t: t + 4, CheckpointError),
        ("shape", lambda t: t[:1], CheckpointError),
        ("shape", lambda t: torch.tensor([torch.nan, 64]), CheckpointError),
        ("shape", None, CheckpointError),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused_by_the_layer(
    pruned_folder, tmp_path, part, change, error
):
    folder = tmp_path / "ours"
    convert_checkpoint(pruned_folder, folder, BITMASK)
    held = load_file(folder / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj"
    tensor = held.pop(f"{layer}.{part}").clone()
    save_file(held | ({f"{layer}.{part}": change(tensor)} if change else {}), folder / "model.safetensors")
    with pytest.raises(error, match=layer):
        Checkpoint(folder).weight(f"{layer}.weight")


def test_options_and_occupied_targets_are_refused_and_nothing_is_left_behind(pruned_folder, tmp_path):
    with pytest.raises(ArgumentError, match="format must be one of"):
        convert_checkpoint(pruned_folder, tmp_path / "out", "marlin-24")
    with pytest.raises(ArgumentError, match="skip must be a sequence"):
        convert_checkpoint(pruned_folder, tmp_path / "out", BITMASK, skip="lm_head")
    with pytest.raises(CheckpointError, match="it exists already"):
        convert_checkpoint(pruned_folder, pruned_folder, BITMASK)
    with pytest.raises(CheckpointError, match="can't be written"):
        convert_checkpoint(pruned_folder, tmp_path / "absent" / "out", BITMASK)
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]
