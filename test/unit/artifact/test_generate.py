"""A saved language model generates what it did before, without its code; its tokenizer travels with it."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from isolated import BLOCK, python, warm_python
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from typer.testing import CliRunner
from unit.checkpoints.tiny import llama

import sparseflow as sf
from sparseflow.cli.main import app
from sparseflow.errors import ArgumentError, ArtifactError
from sparseflow.execution.decoding.saved_caches import SavedCache
from sparseflow.integrations.transformers.saved import _plain_generation
from sparseflow.runtime.artifact.class_lookup import standing_object
from sparseflow.runtime.calling.contract import Contract
from sparseflow.runtime.calling.structure import Constant, Container, Structure

OPTIONS = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0}


class Heard:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.tokens = []

    def put(self, value):
        self.tokens.append(value.reshape(-1))

    def end(self):
        pass


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
        assert torch.equal(loaded.generate(ids, use_cache=True, **{OPTIONS!r}), expected)
        assert "transformers" in sys.modules
        assert not [name for name in sys.modules if name.startswith(("torch_mlir", "sparseflow.frontend"))]
    """
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_plain_calls_need_no_transformers(saved, tmp_path):
    compiled, folder = saved
    ids = torch.randint(3, 96, (2, 5))
    torch.save((ids, compiled.generate(ids, **OPTIONS)), tmp_path / "expected.pt")
    code = f"""
        import torch, sparseflow as sf
        loaded = sf.load({str(folder)!r})
        ids, expected = torch.load("expected.pt")
        for _ in range(2):  # the second one in the slot of the first
            found = loaded.generate(ids, attention_mask=torch.ones_like(ids), **{OPTIONS!r})
            assert torch.equal(found, expected)
        slow = ("sympy", "torch._dynamo", "torch._inductor", "torch_mlir", "transformers")
        assert not [name for name in slow if name in sys.modules]
    """
    done = python(BLOCK + textwrap.dedent(code), tmp_path)
    assert done.returncode == 0, done.stderr


def test_plain_calls_draw_and_stream_the_same_tokens(saved):
    compiled, folder = saved
    loaded, ids = sf.load(folder), torch.randint(3, 96, (1, 6))
    how = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "max_new_tokens": 6}
    found, heard = [], []
    for model in (compiled, loaded):
        torch.manual_seed(4)
        streamer = Heard()
        found.append(model.generate(ids, streamer=streamer, eos_token_id=None, **how))
        heard.append(torch.cat(streamer.tokens))
    assert torch.equal(*found)
    assert torch.equal(*heard)
    assert torch.equal(heard[0], found[0][0])
    assert loaded._generator is None


def test_what_a_saved_model_generates_in_its_own_way_is_left_to_transformers(tmp_path):
    class Biased(transformers.LlamaForCausalLM):
        def _get_logits_processor(self, *args, **kwargs):
            return transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(2.0)])

    model = llama()
    assert _plain_generation(model)["refused"] == ""
    model.generation_config.num_beams = 2
    assert "num_beams" in _plain_generation(model)["refused"]
    model.__class__ = Biased
    model.generation_config.num_beams = None
    assert "Biased" in _plain_generation(model)["refused"]


def test_only_programs_over_static_caches_that_hold_every_token_give_caches(saved):
    _, folder = saved
    contract = sf.load(folder)._programs[0].contract
    cache = SavedCache.of(contract)
    made = cache.make(2)
    assert cache.length == 256
    assert [layer.keys.shape for layer in made.layers] == [(2, 2, 256, 16)] * 2
    spec, slots = contract.signature.inputs.spec, contract.signature.inputs.slots

    def with_slots(change) -> Contract:
        inputs = Structure(spec, tuple(map(change, slots)))
        return dataclasses.replace(contract, signature=dataclasses.replace(contract.signature, inputs=inputs))

    def sliding(slot):
        if not isinstance(slot, Container):
            return slot
        kind = standing_object("transformers.cache_utils:StaticSlidingWindowLayer")
        layers = slot.children[0]
        changed = layers._replace(children=tuple(layer._replace(kind=kind) for layer in layers.children))
        return slot._replace(children=(changed, *slot.children[1:]))

    assert SavedCache.of(with_slots(lambda slot: slot)) == cache
    assert SavedCache.of(with_slots(sliding)) is None
    assert (
        SavedCache.of(with_slots(lambda s: Constant(bool, False) if s == Constant(bool, True) else s)) is None
    )
    loose = dataclasses.replace(contract.guards, ranges=[])
    assert SavedCache.of(dataclasses.replace(contract, guards=loose)) is None


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
