"""A saved language model generates what it did before, without its code; its tokenizer travels with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from isolated import BLOCK, warm_python
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from typer.testing import CliRunner
from unit.checkpoints.tiny import llama

import sparseflow as sf
from sparseflow.cli.main import app
from sparseflow.errors import ArgumentError, ArtifactError

OPTIONS = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0}


class Own(transformers.LlamaForCausalLM):
    """Of a class that transformers hasn't."""


def compiled_llama(kind=transformers.LlamaForCausalLM) -> sf.CompiledModel:
    model = llama()
    model.__class__ = kind
    model.generation_config.max_new_tokens = 5
    compiled = sf.compile(model, policy="sparse", prune="magnitude")
    for batch in (1, 2):
        compiled.generate(torch.randint(3, 96, (batch, 6)), **OPTIONS)
    return compiled


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[sf.CompiledModel, Path]:
    folder = tmp_path_factory.mktemp("saved") / "llama"
    compiled = compiled_llama()
    compiled.save(folder, tokenizer=tokenizer())
    return compiled, folder


@pytest.mark.parametrize("shape", [(1, 6), (2, 6), (3, 11), (1, 3)])
def test_it_generates_the_same_tokens(saved, shape):
    compiled, folder = saved
    ids = torch.randint(3, 96, shape)
    loaded = sf.load(folder)
    assert torch.equal(loaded.generate(ids, **OPTIONS), compiled.generate(ids, **OPTIONS))
    default = loaded.generate(ids, do_sample=False)
    assert torch.equal(default, compiled.generate(ids, do_sample=False))
    assert default.shape[1] <= shape[1] + 5


def test_static_caches_and_padded_batches_generate_the_same_tokens(tmp_path):
    compiled, ids = sf.compile(llama(), policy="sparse", prune="magnitude"), torch.randint(3, 96, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    calls = ({"cache_implementation": "static"}, {"attention_mask": mask})
    expected = [compiled.generate(ids, **call, **OPTIONS) for call in calls]
    compiled.save(tmp_path / "llama")
    loaded = sf.load(tmp_path / "llama")
    for call, tokens in zip(calls, expected, strict=True):
        assert torch.equal(loaded.generate(ids, **call, **OPTIONS), tokens)


def test_sampling_and_what_generate_returns_are_the_same(saved):
    compiled, folder = saved
    ids, found = torch.randint(3, 96, (2, 6)), []
    for model in (compiled, sf.load(folder)):
        torch.manual_seed(4)
        found.append(model.generate(ids, do_sample=True, max_new_tokens=6, return_dict_in_generate=True))
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert type(found[0]) is type(found[1])


def test_its_tokenizer_and_configuration_travel_with_it(saved):
    _, folder = saved
    loaded = sf.load(folder)
    assert loaded.tokenizer("w3 w1 w4").input_ids == [3, 1, 4]
    assert loaded.config.num_hidden_layers == 2
    assert loaded.config.model_type == "llama"


def test_a_model_of_an_unknown_class_generates_too(tmp_path):
    compiled = compiled_llama(Own)
    compiled.save(tmp_path / "own")
    loaded, ids = sf.load(tmp_path / "own"), torch.randint(3, 96, (2, 9))
    assert torch.equal(loaded.generate(ids, **OPTIONS), compiled.generate(ids, **OPTIONS))
    assert loaded.tokenizer is None


def test_in_a_process_that_imports_transformers_only_then(saved, tmp_path):
    compiled, folder = saved
    ids = torch.randint(3, 96, (2, 5))
    torch.save((ids, compiled.generate(ids, **OPTIONS)), tmp_path / "expected.pt")
    code = f"""
        import sys, torch, sparseflow as sf
        loaded = sf.load({str(folder)!r})
        assert "transformers" not in sys.modules
        ids, expected = torch.load("expected.pt")
        assert torch.equal(loaded.generate(ids, **{OPTIONS!r}), expected)
        assert not [name for name in sys.modules if name.startswith(("torch_mlir", "sparseflow.frontend"))]
    """
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_transformers_it_says_what_to_install(saved, tmp_path):
    _, folder = saved
    code = BLOCK + f"import torch, sparseflow as sf\nsf.load({str(folder)!r}).generate(torch.ones(1, 3))\n"
    done = warm_python(code, tmp_path)
    assert "sparseflow[transformers]" in done.stderr, done.stderr


def test_calls_of_other_kinds_are_refused(saved):
    _, folder = saved
    with pytest.raises(ArgumentError, match="accepts this call"):
        sf.load(folder).generate(
            torch.randint(3, 96, (2, 6)), output_hidden_states=True, return_dict_in_generate=True
        )


def test_models_that_do_not_generate_say_so(tmp_path):
    sf.compile(nn.Linear(32, 32).eval(), (torch.randn(2, 32),)).save(tmp_path / "linear")
    with pytest.raises(ArgumentError, match=r"generate\(\)"):
        sf.load(tmp_path / "linear").generate(torch.ones(1, 3))
    assert sf.load(tmp_path / "linear").tokenizer is None
    with pytest.raises(ArgumentError, match="tokenizer must be"):
        sf.compile(nn.Linear(32, 32).eval(), (torch.randn(2, 32),)).save(tmp_path / "other", tokenizer="bert")


def test_a_changed_tokenizer_is_noticed(saved, tmp_path):
    compiled, _ = saved
    compiled.save(tmp_path / "llama", tokenizer=tokenizer())
    (tmp_path / "llama" / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        sf.load(tmp_path / "llama")


def test_eval_and_report_take_an_artifact(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path / "folder")
    tokenizer().save_pretrained(tmp_path / "folder")
    (tmp_path / "text.txt").write_text(" ".join(f"w{i % 90 + 3}" for i in range(80)))
    runner, common = CliRunner(), ["--text", str(tmp_path / "text.txt"), "--window", "32", "--json"]
    compiling = ["compile", str(tmp_path / "folder"), str(tmp_path / "artifact"), "--prune", "magnitude"]
    done = runner.invoke(app, [*compiling, "--policy", "sparse"])
    assert done.exit_code == 0, done.output
    sf.prune(model, progress=False)
    model.save_pretrained(tmp_path / "pruned")
    tokenizer().save_pretrained(tmp_path / "pruned")
    done = runner.invoke(app, ["eval", str(tmp_path / "artifact"), str(tmp_path / "pruned"), *common])
    assert done.exit_code == 0, done.output
    one, other = (row["perplexity"] for row in json.loads(done.stdout)["rows"])
    assert one == pytest.approx(other, rel=1e-4)
    assert runner.invoke(app, ["report", str(tmp_path / "artifact")]).exit_code == 0
    ids = torch.tensor([[3, 1, 4, 1]])
    assert torch.equal(
        sf.load(tmp_path / "artifact").generate(ids, **OPTIONS), model.generate(ids, **OPTIONS)
    )
