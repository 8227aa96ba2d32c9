"""transformers models with packed layers, through its own loading, saving and generating."""

import json
import textwrap

import pytest
import torch
import transformers
from isolated import BLOCK, warm_python
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.errors import ArgumentError, CheckpointError, WeightError
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.nn import SparseLinear

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def config(**options):
    return SparseFlowConfig(**{"policy": "sparse"} | options)


def load(folder, quantization_config=None, **options):
    if quantization_config is not None:  # given as None it hides what config.json says
        options["quantization_config"] = quantization_config
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def sparse_layers(model):
    return {name for name, module in model.named_modules() if isinstance(module, SparseLinear)}


@pytest.fixture
def packed_folder(dense_folder, tmp_path):
    load(dense_folder, config()).save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pruned_at_load_it_computes_what_the_pruned_model_does(dense_folder, dtype):
    model = load(dense_folder, config(), dtype=dtype)
    pruned = llama(dtype)
    sf.prune(pruned)
    assert len(sparse_layers(model)) == LAYERS
    assert model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, pruned(IDS).logits, **tolerance)


@pytest.mark.parametrize("shard", [{}, {"max_shard_size": "40KB"}])
def test_saved_and_loaded_again_it_is_the_same_model_and_was_never_dense(dense_folder, tmp_path, shard):
    model = load(dense_folder, config(), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "packed", **shard)
    saved = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert saved["quant_method"] == "sparseflow"
    assert set(saved["layers"]) == sparse_layers(model)
    again = load(tmp_path / "packed")
    assert sparse_layers(again) == sparse_layers(model)
    for (name, one), (_, other) in zip(again.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    again.save_pretrained(tmp_path / "again")
    assert Checkpoint(tmp_path / "again").format == "sparseflow"
    bytes_ = {
        f: sum(p.stat().st_size for p in f.glob("*.safetensors")) for f in (dense_folder, tmp_path / "packed")
    }
    assert (
        bytes_[tmp_path / "packed"] < 0.42 * bytes_[dense_folder]
    )  # of float32, with an embedding and a head


def test_already_pruned_layers_are_packed_as_they_are_and_others_stay_dense(tmp_path):
    model = llama()
    sf.prune(model, skip=("*.q_proj", "lm_head"))
    model.save_pretrained(tmp_path / "some")
    loaded = load(tmp_path / "some", config(prune=None))
    assert len(sparse_layers(loaded)) == LAYERS - 2
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    loaded.save_pretrained(tmp_path / "packed")
    assert sparse_layers(load(tmp_path / "packed")) == sparse_layers(loaded)
    state = Checkpoint(tmp_path / "packed").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_converted_checkpoint_of_compressed_tensors_loads(pruned, pruned_folder, tmp_path):
    convert_checkpoint(pruned_folder, tmp_path / "theirs", "sparse-24-bitmask")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", "sparseflow")
    model = load(tmp_path / "ours")
    assert len(sparse_layers(model)) == LAYERS
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, pruned(IDS).logits)


def test_skipped_and_tied_layers_stay_dense(dense_folder, tmp_path):
    some = load(dense_folder, config(skip=("*.mlp.*", "lm_head")))
    assert not any("mlp" in name for name in sparse_layers(some))
    both = config(skip_defaults=False)
    untied = load(dense_folder, both)
    everything = sparse_layers(untied)
    assert "lm_head" in everything
    tied = llama(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    model = load(tmp_path / "tied", both)
    assert sparse_layers(model) == everything - {"lm_head"}
    assert set(untied.config.quantization_config.layers) == everything
    model.save_pretrained(tmp_path / "packed")
    again = load(tmp_path / "packed")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_it_generates_with_every_cache_and_in_a_pipeline(packed_folder, tmp_path):
    model = load(packed_folder)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(IDS, **options)
    static = model.generate(IDS, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, expected)
    tokenizer(packed_folder)
    pipe = transformers.pipeline("text-generation", model=str(packed_folder))
    text = pipe("w3 w1 w4", return_full_text=False, **options)[0]["generated_text"]
    continued = model.generate(torch.tensor([[3, 1, 4]]), **options)[0, 3:]
    assert text.split() == [f"w{token}" for token in continued.tolist()]


def tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def test_dequantize_gives_a_plain_model(packed_folder, tmp_path):
    model = load(packed_folder)
    expected = model(IDS).logits
    plain = model.dequantize()
    assert not sparse_layers(plain)
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, expected)
    plain.save_pretrained(tmp_path / "plain")
    assert Checkpoint(tmp_path / "plain").format == "dense"


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "error", "rule"),
    [
        (lambda t: t.pop(f"{UP}.weight"), CheckpointError, f"no tensor {UP}.weight"),
        (lambda t: t.pop(f"{UP}.weight.positions"), CheckpointError, f"no tensor {UP}.weight.positions"),
        (lambda t: t.pop("model.layers.1.self_attn.q_proj.bias"), CheckpointError, "no tensor .*q_proj.bias"),
        (lambda t: t[f"{UP}.weight.positions"].fill_(0), WeightError, "first must be less"),
        (lambda t: t[f"{UP}.weight"].fill_(torch.inf), WeightError, "must be finite"),
        (
            lambda t: t.update({f"{UP}.weight": torch.zeros(64, 32)}),
            (CheckpointError, RuntimeError),
            "mismatched|rows",
        ),
    ],
)
def test_incomplete_and_malformed_checkpoints_are_refused(packed_folder, change, error, rule):
    edit(packed_folder, change)
    with pytest.raises(error, match=rule):
        load(packed_folder)


def test_a_weight_that_can_not_be_packed_is_refused_by_its_layer(dense_folder):
    edit(dense_folder, lambda tensors: tensors[f"{UP}.weight"][2, 3].fill_(torch.nan))
    with pytest.raises(WeightError, match=f"{UP}: row 2, column 3"):
        load(dense_folder, config())
    model = load(dense_folder, config(skip=(UP, "lm_head")))
    assert len(sparse_layers(model)) == LAYERS - 1


def test_foreign_layers_versions_and_options_are_refused(packed_folder):
    path = packed_folder / "config.json"
    content = json.loads(path.read_text())
    for changes, error, rule in (
        ({"format_version": 3}, CheckpointError, "format version is 3"),
        ({"layers": ["model.up"]}, CheckpointError, "layer model.up: it is packed in the checkpoint"),
        ({"layers": ["model.embed_tokens"]}, CheckpointError, "no such nn.Linear"),
        ({"layers": "up"}, CheckpointError, "layers must be a list"),
        ({"policy": "fast"}, ArgumentError, "policy must be one of"),
        ({"speed": 2}, ArgumentError, "no option 'speed'"),
    ):
        path.write_text(
            json.dumps(content | {"quantization_config": content["quantization_config"] | changes})
        )
        with pytest.raises(error, match=rule):
            load(packed_folder)
    for options in ({"pattern": "1:4"}, {"prune": "wanda"}, {"skip": "lm_head"}, {"method": "magnitude"}):
        with pytest.raises(ArgumentError):
            SparseFlowConfig(**options)


def test_without_transformers_the_rest_works_and_the_config_says_what_is_missing(tmp_path):
    code = """
    from sparseflow.errors import MissingDependencyError
    from sparseflow.checkpoints import Checkpoint
    from sparseflow.integrations.compressed_tensors import to_bitmask
    from sparseflow.integrations.torch import to_semi_structured
    try:
        from sparseflow.integrations.transformers import SparseFlowConfig
    except MissingDependencyError as error:
        print(error)
    """
    said = warm_python(BLOCK + textwrap.dedent(code), tmp_path).stdout
    assert "SparseFlowConfig: needs transformers >=5.17" in said or "needs transformers <" in said


def test_offloading_is_refused(packed_folder):
    for places in ({"model": "cpu", "lm_head": "disk"}, {"model": "cpu", "lm_head": 0}):
        with pytest.raises(ArgumentError, match="can't be offloaded"):
            load(packed_folder, device_map=places)
