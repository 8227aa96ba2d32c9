"""Packed folders of transformers: loaded as they are or refused, whoever reads them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from isolated import python, warm_python
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.checkpoints import Checkpoint, convert_checkpoint
from sparseflow.errors import ArgumentError, CheckpointError
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.nn import SparseLinear, densify, sparsify

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(scope="module")
def sparse():
    model = llama()
    sparsify(model, policy="sparse")
    return model


@pytest.fixture(scope="module")
def folder(sparse, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model"
    sparse.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("converted"), llama()
    sf.prune(model, progress=False)
    model.save_pretrained(path / "pruned")
    convert_checkpoint(path / "pruned", path / "packed", "sparseflow")
    return path / "packed"


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def test_layers_in_another_format_run_and_are_not_saved(tmp_path):
    model = llama().bfloat16()
    model.save_pretrained(tmp_path / "dense")
    config = SparseFlowConfig(policy="sparse", format="2:4-fp8")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", quantization_config=config, dtype=torch.bfloat16
    )
    names = sparsify(model, policy="sparse", format="2:4-fp8").replaced
    assert [name for name, m in loaded.named_modules() if isinstance(m, SparseLinear)] == names
    assert names
    for one in (loaded, model):
        assert one(IDS).logits.isfinite().all()
        packed = [one.get_submodule(name).weight for name in names]
        assert {weight.format.name for weight in packed} == {"2:4-fp8"}
        expected = (model.get_submodule(name).weight.unpack() for name in names)
        assert all(map(torch.equal, (weight.unpack() for weight in packed), expected))
        with pytest.raises(ValueError, match="quantized with sparseflow and is not serializable"):
            one.save_pretrained(tmp_path / "packed")
    densify(model)
    model.save_pretrained(tmp_path / "packed")
    assert count(AutoModelForCausalLM.from_pretrained(tmp_path / "packed")) == 0


def count(model: nn.Module) -> int:
    return sum(isinstance(module, SparseLinear) for module in model.modules())


def test_a_sparsified_model_is_saved_packed_and_loads_again(sparse, folder):
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert count(again) == LAYERS
    assert torch.equal(again(IDS).logits, sparse(IDS).logits)
    assert Checkpoint(folder).format == "sparseflow"


def test_it_can_be_saved_as_a_part_and_loaded_as_one(sparse, folder, tmp_path):
    base = AutoModel.from_pretrained(folder)
    expected = sparse.model(IDS).last_hidden_state
    assert torch.equal(base(IDS).last_hidden_state, expected)
    sparse.model.save_pretrained(tmp_path / "base")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "base")(IDS).last_hidden_state, expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_of_a_part_or_of_a_whole_around_it_are_declared_too(tmp_path, wrapped):
    model = llama()
    sparsify(nn.ModuleDict({"inner": model}) if wrapped else model.model, policy="sparse")
    model.save_pretrained(tmp_path / "packed")
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed")(IDS).logits, model(IDS).logits
    )


def test_densified_it_is_saved_as_a_plain_model(sparse, tmp_path):
    model = llama()
    sparsify(model, policy="sparse")
    densify(model)
    model.save_pretrained(tmp_path / "plain")
    assert Checkpoint(tmp_path / "plain").format == "dense"
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(IDS).logits, sparse(IDS).logits
    )


def test_a_model_of_another_quantizer_is_refused():
    model = llama()
    model.hf_quantizer, model.quantization_method = object(), "other"
    with pytest.raises(ArgumentError, match="quantised by 'other'"):
        sparsify(model)


STOCK = """
    import transformers
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        try:
            kind.from_pretrained({folder!r})
        except (RuntimeError, ValueError) as error:
            print(type(error).__name__)
"""


@pytest.mark.parametrize("source", ["folder", "converted"])
def test_transformers_alone_fails_instead_of_making_weights_up(request, tmp_path, source):
    done = warm_python(STOCK.format(folder=str(request.getfixturevalue(source))), tmp_path)
    assert done.stdout.split() == ["RuntimeError"] * 2, done.stderr
    assert "Unknown quantization type, got sparseflow" in done.stderr


def test_so_does_a_model_whose_layers_were_put_there_by_hand(tmp_path):
    model = llama()
    for layer in model.model.layers:
        layer.mlp.up_proj = SparseLinear(sf.compress_2_4(sf.prune_24(layer.mlp.up_proj.weight)))
    model.save_pretrained(tmp_path / "packed")
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    with pytest.raises(RuntimeError, match="size mismatch"):
        llama().load_state_dict(model.state_dict(), strict=False)


@pytest.mark.parametrize(
    "imports",
    [
        "import sparseflow, transformers",
        "import transformers.quantizers.auto, sparseflow",
    ],
)
def test_importing_sparseflow_is_enough_before_and_after_transformers(folder, tmp_path, imports):
    code = f"""
        {imports}
        model = transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})
        print(sum(type(module).__name__ == "SparseLinear" for module in model.modules()))
    """
    done = warm_python(code, tmp_path)
    assert done.stdout.split() == [str(LAYERS)], done.stderr


def test_importing_both_brings_no_torch_before_a_model_needs_it(tmp_path):
    done = python(
        "import sys, sparseflow, transformers; print({'torch', 'sparseflow.checkpoints'} & set(sys.modules))",
        tmp_path,
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_an_older_form_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["quantization_config"]["format_version"] = 1
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="format version is 1; this SparseFlow reads version 2"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "old")
