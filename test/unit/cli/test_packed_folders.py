"""Commands take packed folders as they are, and no folder of which a weight would be made up."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.cli.main import app
from sparseflow.cli.saved_models import load_model
from sparseflow.errors import CheckpointError
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.nn import SparseLinear


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders")
    model = llama()
    sf.prune(model, progress=False)
    model.save_pretrained(path / "pruned")
    packed = transformers.AutoModelForCausalLM.from_pretrained(
        path / "pruned", quantization_config=SparseFlowConfig(prune=None, policy="sparse")
    )
    packed.save_pretrained(path / "packed")
    torch.save(torch.randint(3, 96, (80,)), path / "tokens.pt")
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_packed_folder_is_evaluated_as_the_pruned_one(folders):
    done = run(
        "eval",
        folders / "packed",
        folders / "pruned",
        "--text",
        folders / "tokens.pt",
        "--window",
        32,
        "--json",
    )
    assert done.exit_code == 0, done.output
    one, other = (row["perplexity"] for row in json.loads(done.stdout)["rows"])
    assert one == pytest.approx(other, rel=1e-4)


def test_a_packed_folder_is_compiled_as_it_is(folders, tmp_path):
    done = run("compile", folders / "packed", tmp_path / "artifact", "--policy", "sparse")
    assert done.exit_code == 0, done.output
    ids = torch.randint(3, 96, (2, 7))
    expected = load_model(folders / "pruned")(ids).logits
    torch.testing.assert_close(
        sf.load(tmp_path / "artifact")(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("pattern", ["2:4", "6:8"])
def test_prune_saves_packed(tmp_path, pattern):
    llama().save_pretrained(tmp_path / "dense")
    done = run("prune", tmp_path / "dense", tmp_path / "packed", "--pattern", pattern, "--save-packed")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "packed" / "sparseflow_prune.json").exists()
    loaded = load_model(tmp_path / "packed")
    layers = {name: m.weight for name, m in loaded.named_modules() if isinstance(m, SparseLinear)}
    assert len(layers) == LAYERS
    assert {weight.format.name for weight in layers.values()} == {pattern}
    name, weight = next(iter(layers.items()))
    dense = load_model(tmp_path / "dense").get_submodule(name).weight
    assert torch.equal(weight.unpack(), sf.Pattern.of(pattern).prune(dense))


def test_the_loader_finds_the_packed_layers(folders):
    model = load_model(folders / "packed")
    assert sum(isinstance(module, SparseLinear) for module in model.modules()) == LAYERS


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda tensors: tensors.pop(UP), f"lacks 1 of the tensors of LlamaForCausalLM: {UP}"),
        (lambda tensors: tensors.pop("model.norm.weight"), "lacks 1 .* model.norm.weight"),
        (lambda tensors: tensors.update({f"{UP}.values": torch.zeros(2)}), f"has besides 1 .*{UP}.values"),
        (
            lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(2)}),
            "has besides",
        ),
    ],
)
@pytest.mark.parametrize("command", ["eval", "prune", "compile"])
def test_a_folder_that_lacks_weights_is_refused_by_name(folders, tmp_path, change, rule, command):
    load_model(folders / "pruned").save_pretrained(tmp_path / "bad")
    tensors = load_file(tmp_path / "bad" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rule):
        load_model(tmp_path / "bad")
    more = ["--text", folders / "tokens.pt"] if command == "eval" else [tmp_path / "out"]
    done = run(command, tmp_path / "bad", *more)
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_an_encoder_saved_with_another_head_is_loaded_without_it(tmp_path, kind):
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    saved = getattr(transformers, kind)(config).eval()
    saved.save_pretrained(tmp_path / "bert")
    ids = torch.randint(3, 40, (2, 5))
    expected = getattr(saved, "bert", saved)(ids).last_hidden_state
    assert torch.equal(load_model(tmp_path / "bert")(ids).last_hidden_state, expected)


def test_tied_weights_are_no_missing_ones(tmp_path):
    tied = llama(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    ids = torch.randint(3, 96, (2, 5))
    assert torch.equal(load_model(tmp_path / "tied")(ids).logits, tied(ids).logits)
